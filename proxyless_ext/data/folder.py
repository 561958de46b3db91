"""Pictures in folders: FOLDER/train/CLASS/* beside FOLDER/val/CLASS/*, or FOLDER/CLASS/* alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from ..errors import UserError
from .decoding import FORMATS

Listing = dict[str, list[Path]]
"""Class name -> its pictures, both sorted."""

LAYOUT = "put the pictures of each class in a sub-folder named after it"

PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval"),
}
"""The parts of a data set, by the names that their folders have in any case."""


@dataclass
class FolderListing:
    """What a folder holds.

    Attributes:
        parts: those of `PARTS` that it has; only ``train`` where it makes no difference.
        paths: the folder of each part.
        left_out: how many files and folders are no pictures of these, by kind.
    """

    parts: dict[str, Listing] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


@cache
def suffixes() -> frozenset[str]:
    """Suffixes, with their dots, of the files that Pillow can decode here."""
    named = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in named if name in FORMATS)


def list_folder(folder: Path) -> FolderListing:
    """The pictures in a folder, by part and class.

    As in torchvision's ImageFolder, the pictures of a class may lie in folders below its own. Names
    that begin with a dot are left out. Links are followed, but not to folders that hold the link.

    Raises:
        UserError: a folder cannot be read, is empty, or is not laid out as said above; a class has
            no pictures or a name that is no text; there are fewer than two classes, or different
            ones in different parts; a folder belongs to two classes or parts.
    """
    found = FolderListing()
    paths = find_parts(folder)
    if not paths:
        found.paths["train"] = folder
        found.parts["train"] = _list_classes(folder, found.left_out)
        return found
    beside = {path.name for path in _subfolders(folder)} - {path.name for path in paths.values()}
    for name in beside:
        found.left_out[f"folder '{name}'"] += 1
    for part, path in paths.items():
        found.paths[part] = path
        found.parts[part] = _list_classes(path, found.left_out)
    for part in paths.keys() - {"train"}:
        _check_same_classes(found, part)
    _check_apart(found)
    return found


def find_parts(folder: Path) -> dict[str, Path]:
    """The folders of a data set's parts; none where sub-folders are classes.

    Raises:
        UserError: two folders could be the same part, or there is nothing to train on.
    """
    found: dict[str, Path] = {}
    for path in _subfolders(folder):
        for part, names in PARTS.items():
            if path.name.lower() not in names:
                continue
            if part in found:
                raise UserError(
                    f"the folder {folder} has two parts for {part}, '{found[part].name}' and "
                    f"'{path.name}'; keep one of them"
                )
            found[part] = path
    # Beside other folders, or alone, one without folders below it could be a class: of trains.
    has_others = len(_subfolders(folder)) > len(found)
    if not any(map(_subfolders, found.values())) and (has_others or len(found) < 2):
        return {}
    if "train" not in found:
        name = next(iter(found.values())).name
        raise UserError(
            f"the folder {folder} has a part '{name}' but none to train on; name it train"
        )
    return {part: found[part] for part in PARTS if part in found}


def _check_apart(found: FolderListing) -> None:
    """See to it that no folder, by a link, is part of two parts: what is held out has to be."""
    owners: dict[tuple[int, int], Path] = {}
    for part, listing in found.parts.items():
        folder = found.paths[part]
        for path in (folder, *(folder / name for name in listing)):
            other = owners.setdefault(_identity(path), path)
            if other != path:
                raise UserError(f"{other} and {path} are one folder, by a link; keep one of them")


def _check_same_classes(found: FolderListing, part: str) -> None:
    train, other = found.parts["train"], found.parts[part]
    if train.keys() != other.keys():
        raise UserError(
            f"the classes in {found.paths['train']} and {found.paths[part]} differ (only in "
            f"{found.paths['train'].name}: {names(train.keys() - other.keys())}; only in "
            f"{found.paths[part].name}: {names(other.keys() - train.keys())}); give both the same "
            "class folders"
        )


def list_classes(folder: Path, left_out: Counter[str]) -> Listing:
    """The pictures of every class in a folder, which may be a single one.

    Raises:
        UserError: as in `list_folder`.
    """
    folders = _subfolders(folder)
    walk = _Walk(folder, folders, left_out)
    listing = {_text(path): walk.pictures(path) for path in folders}
    if not listing:
        has = "pictures but no class sub-folders" if walk.pictures(folder) else "no pictures"
        raise UserError(f"the folder {folder} holds {has}; {LAYOUT}")
    for name, pictures in listing.items():
        if not pictures:
            raise UserError(
                f"the class folder {folder / name} holds no pictures that can be read here; fill "
                "or remove it"
            )
    return listing


def _list_classes(folder: Path, left_out: Counter[str]) -> Listing:
    listing = list_classes(folder, left_out)
    if len(listing) < 2:
        raise UserError(
            f"the folder {folder} holds a single class ({names(listing)}), but at least two are "
            f"needed; {LAYOUT}"
        )
    below = [{path.name for path in _subfolders(folder / name)} for name in listing]
    if len(below[0]) > 1 and all(each == below[0] for each in below):
        raise UserError(
            f"the folders {names(listing)} in {folder} all hold the same sub-folders "
            f"({names(below[0])}), so that it is unclear which are the classes; call the parts of "
            "the data train, val and test, and let each hold a folder for every class"
        )
    return listing


class _Walk:
    """Finds the pictures of classes, reading every real folder once and for one class.

    Args:
        folder: that holds the classes.
        classes: their folders.
        left_out: counts what is passed over.
    """

    def __init__(self, folder: Path, classes: Iterable[Path], left_out: Counter[str]) -> None:
        self._left_out = left_out
        resolved = Path(os.path.realpath(folder))
        self._around = {_identity(path) for path in (resolved, *resolved.parents)}
        self._owners: dict[tuple[int, int], Path] = {}
        for path in classes:
            self._claim(path, path)

    def pictures(self, owner: Path) -> list[Path]:
        """Those in a class's folder and below it, sorted."""
        found: list[Path] = []
        visited: set[tuple[int, int]] = set()
        for parent, folders, files in os.walk(owner, onerror=_give_up, followlinks=True):
            visited.add(_identity(Path(parent)))
            kept = []
            for name in folders:
                path = Path(parent, name)
                if _hidden(name):
                    self._left_out["hidden"] += 1
                elif (identity := _identity(path)) in self._around or identity in visited:
                    self._left_out["link to a folder around it"] += 1
                else:
                    self._claim(path, owner)
                    kept.append(name)
            folders[:] = kept
            for name in files:
                suffix = os.path.splitext(name)[1].lower()
                if _hidden(name):
                    self._left_out["hidden"] += 1
                elif suffix in suffixes():
                    found.append(Path(parent, name))
                else:
                    self._left_out[suffix or "without a suffix"] += 1
        return sorted(found)

    def _claim(self, path: Path, owner: Path) -> None:
        other = self._owners.setdefault(_identity(path), owner)
        if other != owner:
            raise UserError(
                f"{path} belongs to two classes, '{other.name}' and '{owner.name}', because of a "
                "link; remove the link"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _text(path: Path) -> str:
    """The name of a class's folder, which files about networks can hold."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the class folder {os.fsencode(path)!r} has a name that is not UTF-8; rename it"
        ) from None
    return path.name


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _give_up(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no folder {error.filename}; check the path")
    return UserError(
        f"cannot read the folder {error.filename}: {error.strerror}; check its permissions"
    )


def names(classes: Iterable[str]) -> str:
    """At most five names in order: there can be a thousand."""
    ordered = sorted(classes)
    shown = ", ".join(ordered[:5]) or "none"
    return f"{shown} and {len(ordered) - 5} more" if len(ordered) > 5 else shown
