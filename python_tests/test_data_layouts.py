"""How folders may be laid out, and what is said of all others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proxyless_ext.data import (
    DataConfig,
    Inventory,
    Pictures,
    load_pictures,
    load_test_pictures,
)
from proxyless_ext.data.folder import PARTS, list_folder
from proxyless_ext.errors import UserError
from proxyless_ext.spaces import Normalisation

NO_CHANGE = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def fill(folder: Path, *names: str, count: int = 6) -> None:
    """Pictures that all differ, in a folder for every class."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            colour = (number, index, sum(str(folder).encode()) % 256)
            Image.new("RGB", (2, 2), colour).save(folder / name / f"{index}.png")


def load(folder: Path, seed: int = 0, **settings: object) -> Pictures:
    return load_pictures(DataConfig(source=str(folder), augment="none", **settings), 8, seed)


def kept(folder: Path, part: str, seed: int = 0) -> set[str]:
    """The files that end up in a part, relative to the folder."""
    pictures = load(folder, seed)
    chosen = getattr(pictures, part).part
    return set(map(os.fsdecode, chosen.keys()))


# Pictures of each class by the name of their part, and how many are trained on and validated.
LAYOUTS = [
    ({"train": 6, "val": 4}, (12, 8)),
    ({"Train": 6, "Val": 4}, (12, 8)),
    ({"TRAINING": 6, "Validation": 4}, (12, 8)),
    ({"training": 6, "valid": 4, "testing": 5}, (12, 8)),
    ({"trn": 6, "dev": 4, "tst": 5}, (12, 8)),
    ({"Training": 10, "Testing": 5}, (16, 4)),
    ({"train": 10, "test": 5}, (16, 4)),
    ({"train": 10, "EVAL": 5}, (16, 4)),
    ({"train": 10}, (16, 4)),
    ({"": 10}, (16, 4)),
]


@pytest.mark.parametrize(("layout", "expected"), LAYOUTS)
def test_parts_are_known_by_their_usual_names(
    tmp_path: Path, layout: dict[str, int], expected: tuple[int, int]
) -> None:
    for part, count in layout.items():
        fill(tmp_path / part, "cat", "dog", count=count)
    pictures = load(tmp_path)
    assert pictures.classes == ("cat", "dog")
    assert (len(pictures.train), len(pictures.val)) == expected


def classes_called_like_parts(folder: Path) -> None:
    fill(folder, "plane", "train", "test")


def classes_with_one_folder_below(folder: Path) -> None:
    fill(folder / "cat", "images")
    fill(folder / "dog", "images")


def links_to_classes_elsewhere(folder: Path) -> None:
    fill(folder.parent / "store", "cat", "dog")
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(folder.parent / "store" / name)


def a_link_to_a_folder_around(folder: Path) -> None:
    fill(folder, "cat", "dog")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "further").symlink_to(folder.parent)


def a_class_beside_other_files(folder: Path) -> None:
    fill(folder, "cat", "dog")
    (folder / "cat" / "notes.txt").touch()
    (folder / "dog" / "Thumbs").touch()
    (folder / "dog" / ".DS_Store").touch()


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (classes_called_like_parts, 3),
        (classes_with_one_folder_below, 2),
        (links_to_classes_elsewhere, 2),
        (a_link_to_a_folder_around, 2),
        (a_class_beside_other_files, 2),
    ],
)
def test_other_layouts_of_classes(
    tmp_path: Path, make: Callable[[Path], None], classes: int
) -> None:
    make(tmp_path / "data")
    pictures = load(tmp_path / "data")
    assert len(pictures.classes) == classes
    assert len(pictures.train) + len(pictures.val) == 6 * classes


def unknown_parts(folder: Path) -> None:
    fill(folder / "first", "cat", "dog")
    fill(folder / "second", "cat", "dog")


def parts_below_classes(folder: Path) -> None:
    fill(folder / "cat", "train", "val")
    fill(folder / "dog", "train", "val")


def two_parts_to_train_on(folder: Path) -> None:
    fill(folder / "train", "cat", "dog")
    fill(folder / "Training", "cat", "dog")


def two_parts_to_validate(folder: Path) -> None:
    for part in ("train", "val", "valid"):
        fill(folder / part, "cat", "dog")


def nothing_to_train_on(folder: Path) -> None:
    fill(folder / "val", "cat", "dog")
    fill(folder / "test", "cat", "dog")


def other_classes_to_test(folder: Path) -> None:
    fill(folder / "train", "cat", "dog")
    fill(folder / "test", "cat", "cow")


def a_link_between_classes(folder: Path) -> None:
    fill(folder, "cat", "dog")
    (folder / "cat" / "more").symlink_to(folder / "dog")


def two_links_to_one_folder(folder: Path) -> None:
    fill(folder.parent / "store", "cat")
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(folder.parent / "store" / "cat")


def a_part_that_is_a_link(folder: Path) -> None:
    fill(folder / "train", "cat", "dog")
    (folder / "val").symlink_to(folder / "train")


def a_class_of_two_parts(folder: Path) -> None:
    fill(folder / "train", "cat", "dog")
    fill(folder / "val", "dog")
    (folder / "val" / "cat").symlink_to(folder / "train" / "cat")


def a_class_of_text(folder: Path) -> None:
    fill(folder, "cat", "dog")
    (folder / "emu").mkdir()
    (folder / "emu" / "a.txt").touch()


def a_name_that_is_no_text(folder: Path) -> None:
    fill(folder, "cat", "dog")
    os.rename(folder / "dog", os.fsencode(folder) + b"/d\xf6g")


def two_pictures_of_a_class(folder: Path) -> None:
    fill(folder, "cat")
    fill(folder, "dog", count=2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (unknown_parts, r"first, second in .* all hold the same sub-folders \(cat, dog\)"),
        (parts_below_classes, r"cat, dog in .* all hold the same sub-folders \(train, val\)"),
        (two_parts_to_train_on, "two parts for train, 'Training' and 'train'; keep one of them"),
        (two_parts_to_validate, "two parts for val, 'val' and 'valid'; keep one of them"),
        (nothing_to_train_on, "has a part 'test' but none to train on; name it train"),
        (other_classes_to_test, "only in train: dog; only in test: cow"),
        (a_link_between_classes, "belongs to two classes, 'dog' and 'cat', because of a link"),
        (two_links_to_one_folder, "belongs to two classes, 'cat' and 'dog', because of a link"),
        (a_part_that_is_a_link, "train and .*val are one folder, by a link; keep one of them"),
        (a_class_of_two_parts, "train/cat and .*val/cat are one folder, by a link"),
        (a_class_of_text, r"the class folder .*emu holds no pictures that can be read here; fill"),
        (a_name_that_is_no_text, r"d\\xf6g' has a name that is not UTF-8; rename it"),
        (two_pictures_of_a_class, r"'dog' has too few .* \(2\) .*validation; give it at least 3"),
    ],
)
def test_what_could_mean_two_things_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(tmp_path / "data")
    with pytest.raises(UserError, match=sentence) as raised:
        load(tmp_path / "data")
    assert "\n" not in str(raised.value)


def test_files_and_folders_of_any_name_are_read(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "d\no\tg")
    os.rename(tmp_path / "cat" / "0.png", os.fsencode(tmp_path) + b"/cat/\xf6\xff.png")
    pictures = load(tmp_path)
    assert pictures.classes == ("cat", "d\no\tg")
    assert len(pictures.train) + len(pictures.val) == 12
    restored = Inventory.model_validate_json(pictures.inventory.model_dump_json())
    assert restored == pictures.inventory


def test_the_names_of_parts_are_distinct() -> None:
    names = [name for each in PARTS.values() for name in each]
    assert len(names) == len(set(names))


def test_what_is_found_and_left_out_is_said(tmp_path: Path) -> None:
    for part in ("train", "val", "pictures of the zoo"):
        fill(tmp_path / part, "cat", "dog")
    a_class_beside_other_files(tmp_path / "train" / "cat" / "deeper")
    (tmp_path / "train" / "dog" / "up").symlink_to(tmp_path)
    assert list(load(tmp_path).describe()) == [
        "train: 24 pictures of 2 classes: cat 18, dog 6",
        "val: 12 pictures of 2 classes: cat 6, dog 6",
        "used: 24 pictures to train on, 12 to validate",
        "left out: 1 .txt, 1 folder 'pictures of the zoo', 1 hidden, 1 link to a folder around it, "
        "1 without a suffix",
    ]
    many = Inventory.of([str(n) for n in range(30)], {})
    assert list(many.describe()) == []


# What a run remembers.


def test_an_inventory_knows_every_change(tmp_path: Path) -> None:
    fill(tmp_path, "ant", "bee", "cat")
    before = load(tmp_path).inventory
    assert before.changes_since(before) == ""
    tmp_path.rename(tmp_path.with_name("moved"))
    folder = tmp_path.with_name("moved")
    assert load(folder).inventory == before

    (folder / "ant" / "0.png").rename(folder / "ant" / "7.png")
    assert load(folder).inventory.changes_since(before) == (
        "pictures of class 'ant' of train were renamed or replaced"
    )
    (folder / "ant" / "7.png").rename(folder / "ant" / "0.png")
    (folder / "bee" / "0.png").rename(folder / "cat" / "9.png")
    said = load(folder).inventory.changes_since(before)
    assert set(said.split(", ")) == {
        "class 'bee' of train has 5 pictures instead of 6",
        "class 'cat' of train has 7 pictures instead of 6",
    }
    (folder / "cat" / "9.png").rename(folder / "bee" / "0.png")
    (folder / "cat").rename(folder / "zebra")
    assert load(folder).inventory.changes_since(before) == (
        "class 'zebra' is new, class 'cat' is gone"
    )
    fill(folder, *"pqrst")
    assert (
        load(folder).inventory.changes_since(before).endswith("class 'r' is new and 4 more changes")
    )


def test_digits_have_an_inventory_of_their_pixels() -> None:
    config = DataConfig(source="digits")
    assert load_pictures(config, 8, 0).inventory == load_pictures(config, 16, 1).inventory


@settings(max_examples=20)  # Each writes dozens of pictures.
@given(st.integers(0, 2**62), st.integers(3, 20), st.integers(0, 19))
def test_a_picture_keeps_its_side_when_another_comes_or_goes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, gone: int
) -> None:
    folder = tmp_path_factory.mktemp("data")
    fill(folder, "cat", "dog", count=count + 1)
    before = kept(folder, "val", seed)
    assert before == kept(folder, "val", seed)
    (folder / "cat" / f"{gone % (count + 1)}.png").unlink()
    after = kept(folder, "val", seed)
    assert len(before ^ after) <= 2  # Itself, and the one at the boundary.
    assert {name for name in before if name.startswith("dog")} == {
        name for name in after if name.startswith("dog")
    }


# Pictures to test on.


def load_all(folder: Path, classes: tuple[str, ...]) -> tuple[int, list[int]]:
    pictures = load_test_pictures(DataConfig(source=str(folder)), 2, classes, NO_CHANGE)
    torch.testing.assert_close(pictures[0][0], pictures[0][0])
    return len(pictures), sorted(set(pictures.labels.tolist()))


def test_all_of_a_test_set_counts(tmp_path: Path) -> None:
    fill(tmp_path / "all", "cat", "dog")
    assert load_all(tmp_path / "all", ("cat", "cow", "dog")) == (12, [0, 2])
    fill(tmp_path / "one", "dog", count=1)
    assert load_all(tmp_path / "one", ("cat", "cow", "dog")) == (1, [2])
    with pytest.raises(UserError, match=r"not trained for \(dog; it knows cat, cow\)"):
        load_all(tmp_path / "all", ("cat", "cow"))


def test_of_a_source_with_parts_the_held_out_part_counts(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog", count=20)
    fill(tmp_path / "val", "cat", "dog", count=4)
    assert load_all(tmp_path, ("dog", "cat")) == (8, [0, 1])
    fill(tmp_path / "test", "cat", "dog", count=5)
    assert load_all(tmp_path, ("dog", "cat")) == (10, [0, 1])
    assert list_folder(tmp_path).parts.keys() == {"train", "val", "test"}
