"""Pictures in folders: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/CLASS/* alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ..errors import UserError

Listing = dict[str, list[Path]]
"""Class name -> its pictures, both sorted."""

LAYOUT = "put the pictures of each class in a sub-folder named after it"


def list_folder(folder: Path) -> tuple[Listing, Listing | None]:
    """The training pictures and, where the folder has a part `val`, the validation pictures.

    As in torchvision's ImageFolder, the pictures of a class may lie in folders below its own. Names
    that begin with a dot are left out.

    Raises:
        UserError: a folder cannot be read, is empty, or is not laid out as said above; a class has
            no pictures; there are fewer than two classes, or other ones in `val` than in `train`.
    """
    if not _has_parts(folder):
        return _list_classes(folder), None
    train = _list_classes(folder / "train")
    if not os.path.isdir(folder / "val"):
        return train, None
    val = _list_classes(folder / "val")
    if train.keys() != val.keys():
        raise UserError(
            f"the classes in {folder / 'train'} and {folder / 'val'} differ (only in train: "
            f"{_names(train.keys() - val.keys())}; only in val: "
            f"{_names(val.keys() - train.keys())}); give both the same class folders"
        )
    return train, val


def _has_parts(folder: Path) -> bool:
    """Whether `train` is a part of the data: without `val` it could be a class, of trains."""
    if not os.path.isdir(folder / "train"):
        return False
    return os.path.isdir(folder / "val") or bool(_subfolders(folder / "train"))


def _list_classes(folder: Path) -> Listing:
    listing = {path.name: _pictures_below(path) for path in _subfolders(folder)}
    if not listing:
        has = "pictures but no class sub-folders" if _pictures_below(folder) else "no pictures"
        raise UserError(f"the folder {folder} holds {has}; {LAYOUT}")
    for name, pictures in listing.items():
        if not pictures:
            raise UserError(
                f"the class folder {folder / name} holds no pictures "
                f"({', '.join(IMG_EXTENSIONS)}); fill or remove it"
            )
    if len(listing) < 2:
        raise UserError(
            f"the folder {folder} holds a single class ({_names(listing)}), but at least two are "
            f"needed; {LAYOUT}"
        )
    return listing


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def _pictures_below(folder: Path) -> list[Path]:
    def give_up(error: OSError) -> None:
        raise _unreadable(error) from error

    pictures = []
    for parent, folders, files in os.walk(folder, onerror=give_up, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        pictures += [
            Path(parent, name)
            for name in files
            if name.lower().endswith(IMG_EXTENSIONS) and not _hidden(name)
        ]
    return sorted(pictures)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"cannot read the folder {error.filename}: {error.strerror}; check its permissions"
    )


def _names(classes: Iterable[str]) -> str:
    """At most five names in order: there can be a thousand."""
    names = sorted(classes)
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
