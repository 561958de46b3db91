import os
import pickle
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import CIFAR10

from proxyless_ext.data import DataConfig, Pictures, load_pictures, pictures
from proxyless_ext.data.parts import MemoryReader, Part
from proxyless_ext.data.transforms import augment, fit, normalise
from proxyless_ext.errors import UserError
from proxyless_ext.spaces import Normalisation, validate

SHARED = Path(__file__).parents[2] / "shared" / "data"


def fill(folder: Path, count: int, size: tuple[int, int] = (8, 8), first: int = 0) -> None:
    """Write pictures of one colour each, all different."""
    folder.mkdir(parents=True)
    for index in range(first, first + count):
        colour = (index % 256, sum(folder.name.encode()) % 256, index // 256)
        Image.new("RGB", size, colour).save(folder / f"{index}.png")


def load(folder: Path, resolution: int = 8, seed: int = 0, **config: object) -> Pictures:
    return load_pictures(DataConfig(source=str(folder), **config), resolution, seed)


def numbers(part: Part) -> set[int]:
    return set(part.numbers.tolist())


def reject(message: str, folder: Path, **config: object) -> str:
    with pytest.raises(UserError, match=message) as raised:
        load(folder, **config)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


# Configuration


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gate_fraction", 0),
        ("gate_fraction", 1),
        ("val_fraction", 1.5),
        ("limit", 0),
        ("workers", -1),
        ("augment", "mirror"),
        ("bad_pictures", "ignore"),
    ],
)
def test_impossible_values_are_named(key, value):
    with pytest.raises(UserError, match=f"'{key}'"):
        validate(DataConfig, {key: value}, "run.yaml")


def test_unknown_keys_are_named():
    with pytest.raises(UserError, match="unknown key 'sorce'"):
        validate(DataConfig, {"sorce": "digits"}, "run.yaml")


# Folders


def test_folder_with_train_and_val(tmp_path):
    for name, train, val in (("cat", 4, 2), ("dog", 6, 3)):
        fill(tmp_path / "train" / name, train)
        fill(tmp_path / "val" / name, val, first=100)
    loaded = load(tmp_path, augment="none")
    assert loaded.classes == ("cat", "dog")
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 6
    assert loaded.val.labels.tolist() == [0] * 2 + [1] * 3
    reds = [
        round((dataset[0][0][0, 0, 0].item() * 0.229 + 0.485) * 255)
        for dataset in (loaded.train, loaded.val)
    ]
    assert reds == [0, 100]


def test_folder_without_val_is_split(tmp_path):
    fill(tmp_path / "cat", 10)
    fill(tmp_path / "dog", 20)
    loaded = load(tmp_path, val_fraction=0.3)
    assert Counter(loaded.val.labels.tolist()) == {0: 3, 1: 6}
    assert Counter(loaded.train.labels.tolist()) == {0: 7, 1: 14}


def test_train_without_val_is_split_and_other_parts_are_left_alone(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 5)
    loaded = load(tmp_path)
    assert loaded.classes == ("cat", "dog")
    assert len(loaded.train) + len(loaded.val) == 10


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path / "plane", 5)
    fill(tmp_path / "train", 5)
    assert load(tmp_path).classes == ("plane", "train")


def test_hidden_names_and_other_files_are_left_out(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name / "deeper", 4)
        (tmp_path / name / "notes.txt").write_text("notes")
        (tmp_path / name / "._0.png").write_bytes(b"a resource fork")
    (tmp_path / ".cache").mkdir()
    shutil.copy(tmp_path / "cat/deeper/0.png", tmp_path / "cat/UPPER.PNG")
    loaded = load(tmp_path)
    assert len(loaded.train) + len(loaded.val) == 9


def test_missing_folder(tmp_path):
    sentence = reject("neither an existing folder nor one of", tmp_path / "nowhere")
    assert "digits, cifar10, fashion_mnist" in sentence
    reject("neither an existing folder", tmp_path / ("long" * 100))
    (tmp_path / "file.png").write_bytes(b"")
    reject("neither an existing folder", tmp_path / "file.png")


def test_empty_folder(tmp_path):
    reject("holds no pictures; put the pictures of each class in a sub-folder", tmp_path)


def test_pictures_without_class_folders(tmp_path):
    fill(tmp_path / "all", 3)
    reject("pictures but no class sub-folders; put the pictures of each", tmp_path / "all")
    for part in ("train", "val"):
        fill(tmp_path / "parts" / part, 3)
    assert "train holds" in reject("no class sub-folders", tmp_path / "parts")


def test_class_without_pictures(tmp_path):
    fill(tmp_path / "cat", 3)
    (tmp_path / "dog").mkdir()
    assert str(tmp_path / "dog") in reject("holds no pictures", tmp_path)


def test_single_class(tmp_path):
    fill(tmp_path / "cat", 3)
    reject(r"single class \(cat\)", tmp_path)


def test_classes_of_train_and_val_differ(tmp_path):
    for name in ("train/ant", "train/bee", "train/cat", "val/ant", "val/cow", "val/cat"):
        fill(tmp_path / name, 2)
    reject("only in train: bee; only in val: cow", tmp_path)
    for index in range(8):
        fill(tmp_path / "train" / f"new{index}", 2)
    reject("only in train: bee, new0, new1, new2, new3 and 4 more; only in val: cow", tmp_path)


def test_too_few_pictures_to_split(tmp_path):
    for name, count in (("train/cat", 2), ("train/dog", 1), ("val/cat", 1), ("val/dog", 1)):
        fill(tmp_path / name, count)
    reject("'dog' has too few .*weights and gates", tmp_path)
    reject("'cat' has too few .*gates and validation; give it at least 3", tmp_path / "train")


@contextmanager
def as_user() -> Iterator[None]:
    """Without the privileges of root, to whom permissions mean nothing."""
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
    except OSError:
        pytest.skip("root cannot become another user here")
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can read; those above `tmp_path` are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        fill(folder / "cat", 3)
        fill(folder / "dog", 3)
        yield folder
        for path in (folder, folder / "dog"):
            path.chmod(0o755)


@pytest.mark.parametrize(("locked", "mode"), [(".", 0), (".", 0o644), ("dog", 0)])
def test_folder_that_may_not_be_read(open_folder, locked, mode):
    (open_folder / locked).chmod(mode)
    with as_user():
        reject("Permission denied; check its permissions", open_folder)


def test_picture_that_may_not_be_read(open_folder):
    (open_folder / "dog" / "1.png").chmod(0)
    with as_user():
        assert "1.png: Permission denied" in reject("cannot read picture", open_folder)


# Unreadable pictures, of those kept in memory


@pytest.fixture
def damaged(tmp_path) -> Path:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        fill(tmp_path / name, 4)
    for name in ("train/cat/1.png", "val/dog/2.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:40])
    return tmp_path


def test_a_damaged_picture_is_fatal_by_default(damaged):
    sentence = reject("cannot read picture", damaged)
    assert str(damaged / "train/cat/1.png") in sentence
    assert "data.bad_pictures to 'skip'" in sentence


def test_damaged_pictures_are_left_out_by_choice(damaged):
    with pytest.warns(UserWarning, match="left out picture") as warned:
        loaded = load(damaged, bad_pictures="skip")
    assert len(warned) == 2
    assert str(damaged / "train/cat/1.png") in str(warned[0].message)
    assert str(damaged / "val/dog/2.png") in str(warned[1].message)
    assert loaded.train.labels.tolist() == [0] * 3 + [1] * 4
    assert loaded.val.labels.tolist() == [0] * 4 + [1] * 3
    assert len(loaded.train_weights) + len(loaded.train_gates) == 7


def test_no_more_are_left_out_than_the_limit(damaged):
    with pytest.warns(UserWarning, match="left out picture"):
        sentence = reject(r"2 pictures cannot be read", damaged, bad_pictures="skip", bad_limit=1)
    assert str(damaged / "val/dog/2.png") in sentence
    assert "raise data.bad_limit" in sentence


def test_a_class_of_damaged_pictures_is_named(damaged):
    for index in range(3):
        (damaged / f"train/cat/{index}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        reject(r"'cat' has too few readable training pictures \(1\)", damaged, bad_pictures="skip")


def test_validation_without_a_readable_picture(damaged):
    for path in damaged.glob("val/*/*"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        reject("no validation picture can be read", damaged, bad_pictures="skip")


# Pictures by name


def test_digits():
    loaded = load_pictures(DataConfig(augment="none"), 32, seed=3)
    assert loaded.classes == tuple("0123456789")
    assert len(loaded.train) + len(loaded.val) == 1797
    pixels = torch.stack([loaded.train[i][0] for i in range(0, len(loaded.train), 5)])
    assert pixels.shape[1:] == (3, 32, 32)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert abs(pixels.mean()) < 0.05
    assert abs(pixels.std() - 1) < 0.05


def test_digits_at_their_own_size_are_exact():
    loaded = load_pictures(DataConfig(augment="none"), 8, seed=0)
    data = load_digits()
    mean, std = loaded.normalisation.mean[0], loaded.normalisation.std[0]
    expected = {
        (np.round(image / 16 * 255).astype(int).tobytes(), int(label))
        for image, label in zip(data.images, data.target, strict=True)
    }
    found = set()
    for dataset in (loaded.train, loaded.val):
        for index in range(len(dataset)):
            picture, label = dataset[index]
            values = ((picture[1] * std + mean) * 255).round().long().numpy()
            found.add((values.tobytes(), label))
    assert found == expected


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """CIFAR-10 in its own format, with 20 pictures a file; torchvision is to skip the checksums."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
    rng = np.random.default_rng(0)
    data = {name: rng.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
    for name in names:
        content = {"data": data[name], "labels": [index % 10 for index in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    classes = {"label_names": [f"class{index}" for index in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(classes))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    return data


@pytest.mark.parametrize("download", [False, True])  # Nothing is fetched when all is there.
def test_cifar10(tmp_path, monkeypatch, download):
    data = write_cifar10(tmp_path, monkeypatch)
    config = DataConfig(source="cifar10", root=str(tmp_path), augment="none", download=download)
    loaded = load_pictures(config, 32, seed=0)
    assert loaded.classes[3] == "class3"
    assert (len(loaded.train), len(loaded.val)) == (100, 20)
    picture, label = loaded.train[43]
    assert label == 3
    planes = data["data_batch_3"][3].reshape(3, 32, 32)
    mean, std = np.array(loaded.normalisation.mean), np.array(loaded.normalisation.std)
    expected = (planes / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(picture.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(loaded.val.pixels(7), data["test_batch"][7].reshape(3, 32, 32))


def write_fashion_mnist(root: Path) -> np.ndarray:
    """FashionMNIST in its own format, with 40 training pictures and 20 others."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = (np.arange(60) % 10).astype(np.uint8)
    for name, part in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        count = len(labels[part])
        (folder / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, count, 28, 28) + images[part].tobytes()
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, count) + labels[part].tobytes()
        )
    return images


def test_fashion_mnist(tmp_path):
    images = write_fashion_mnist(tmp_path)
    config = DataConfig(source="fashion_mnist", root=str(tmp_path), augment="none")
    loaded = load_pictures(config, 28, seed=0)
    assert loaded.classes[1] == "Trouser"
    assert (len(loaded.train), len(loaded.val)) == (40, 20)
    for channel in range(3):
        np.testing.assert_array_equal(loaded.train.pixels(13)[channel], images[13])
        np.testing.assert_array_equal(loaded.val.pixels(3)[channel], images[43])
    assert loaded.val[3][1] == 3


@pytest.mark.parametrize("source", ["cifar10", "fashion_mnist"])
def test_named_set_that_is_not_there(tmp_path, source):
    with pytest.raises(UserError, match=f"{source} is missing or damaged .*data.download"):
        load_pictures(DataConfig(source=source, root=str(tmp_path)), 32, seed=0)


def test_named_set_that_is_damaged(tmp_path):
    write_fashion_mnist(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="fashion_mnist is missing or damaged"):
        load_pictures(DataConfig(source="fashion_mnist", root=str(tmp_path)), 32, seed=0)


def test_download_that_fails(tmp_path, monkeypatch):
    def fail(self: CIFAR10) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(CIFAR10, "download", fail)
    config = DataConfig(source="cifar10", root=str(tmp_path), download=True)
    with pytest.raises(UserError, match=r"download cifar10 .*\(no route to host\)") as raised:
        load_pictures(config, 32, seed=0)
    assert "\n" not in str(raised.value)


# Splits

CLASS_SIZES = st.lists(st.integers(2, 40), min_size=2, max_size=6)


def part_of(sizes: list[int], seed: int) -> Part:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return Part.of(MemoryReader(torch.empty(len(labels), 1, 1, 1)), labels[order])


@given(sizes=CLASS_SIZES, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_splits_keep_the_shares_of_the_classes(sizes, fraction, seed):
    part = part_of(sizes, seed)
    names = [str(label) for label in range(len(sizes))]
    rest, held = part.split(fraction, names, "a and b", seed)
    assert numbers(rest) | numbers(held) == numbers(part)
    assert not numbers(rest) & numbers(held)
    for label, size in enumerate(sizes):
        count = int((held.labels == label).sum())
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1
    for side in (rest, held):
        assert torch.equal(side.labels, part.labels[side.numbers])
        assert torch.equal(side.numbers, side.numbers.sort().values)


@given(sizes=CLASS_SIZES, limit=st.integers(1, 250), seed=st.integers(0, 99))
def test_limits_are_met_evenly(sizes, limit, seed):
    part = part_of(sizes, seed).limit(limit, seed)
    assert len(part) == min(limit, sum(sizes))
    assert torch.equal(part.numbers, part.numbers.unique())
    counts = part.labels.bincount(minlength=len(sizes)).tolist()
    for count, size in zip(counts, sizes, strict=True):
        assert count == size or count >= max(counts) - 1


def test_which_pictures_are_held_out_is_uniform():
    held = torch.zeros(10)
    for seed in range(400):
        part = part_of([4, 6], seed=0)
        _, chosen = part.split(0.5, "ab", "a and b", seed)
        held[chosen.numbers] += 1
    # Each is held out with probability 1/2: 200 +- 10, so 50 is five standard deviations.
    assert (held - 200).abs().max() < 50


def test_splits_are_a_function_of_the_seed_alone():
    config = DataConfig(limit=300)
    first, again, other = (load_pictures(config, 8, seed) for seed in (5, 5, 6))
    torch.manual_seed(1)
    for name in ("train", "train_weights", "train_gates", "val"):
        parts = [getattr(loaded, name).part for loaded in (first, again, other)]
        assert torch.equal(parts[0].numbers, parts[1].numbers)
        assert torch.equal(parts[0].labels, parts[1].labels)
    pixels = [
        torch.stack([loaded.val.pixels(index) for index in range(50)])
        for loaded in (first, again, other)
    ]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def test_weights_and_gates_are_the_two_parts_of_train(tmp_path):
    fill(tmp_path / "cat", 20)
    fill(tmp_path / "dog", 30)
    loaded = load(tmp_path, resolution=65, gate_fraction=0.25)
    train, weights, gates, val = (
        {dataset.part.reader.paths[number] for number in numbers(dataset.part)}
        for dataset in (loaded.train, loaded.train_weights, loaded.train_gates, loaded.val)
    )
    assert weights | gates == train
    assert not weights & gates
    assert not train & val
    assert len(train | val) == 50
    assert Counter(loaded.train_gates.labels.tolist()) == {0: 4, 1: 6}


def test_limit():
    loaded = load_pictures(DataConfig(limit=45), 8, seed=0)
    assert len(loaded.train) == 45
    assert set(Counter(loaded.train.labels.tolist()).values()) == {4, 5}
    assert len(loaded.val) == 359


def test_limit_below_two_a_class():
    with pytest.raises(UserError, match=r"data.limit is 19, .* at least 20"):
        load_pictures(DataConfig(limit=19), 8, seed=0)


# Transforms


def windows(picture: Tensor, border: int) -> dict[bytes, tuple[int, int]]:
    """The bytes of every crop of the picture with a black border -> its offset."""
    size = picture.shape[-1]
    padded = np.pad(picture.numpy(), ((0, 0), (border, border), (border, border)))
    return {
        padded[:, y : y + size, x : x + size].tobytes(): (y, x)
        for y in range(2 * border + 1)
        for x in range(2 * border + 1)
    }


@pytest.mark.parametrize(
    ("augmentation", "mirrors", "is_mirrored"),
    [("standard", True, True), ("standard", False, False), ("crop", True, False)],
)
def test_small_pictures_are_cropped_and_mirrored(augmentation, mirrors, is_mirrored):
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
    straight, mirrored = windows(picture, 4), windows(picture.flip(2), 4)
    transform = augment(augmentation, 32, mirrors)
    torch.manual_seed(0)
    results = [transform(picture).contiguous().numpy().tobytes() for _ in range(700)]
    assert all(result in straight or result in mirrored for result in results)
    # Some offset would be missed by at most 81 * exp(-700 / 81) = 1.5 % of the seeds.
    assert {(straight | mirrored)[result] for result in results} == set(straight.values())
    share = sum(result in mirrored for result in results) / len(results)
    assert abs(share - 0.5 * is_mirrored) < 0.1


def test_folders_are_mirrored_but_digits_are_not(tmp_path):
    for name in ("left", "right"):
        fill(tmp_path / name, 8)
        for path in (tmp_path / name).iterdir():
            half = Image.new("RGB", (8, 8), "white")
            half.paste("black", (0, 0, 4, 8))
            half.save(path)
    for loaded, mirrors in ((load(tmp_path), True), (load_pictures(DataConfig(), 8, 0), False)):
        for dataset in (loaded.train, loaded.train_weights, loaded.train_gates):
            picture = dataset.part.pixels(0)
            straight = windows(picture, 1)
            drawn = [dataset.pixels(0).contiguous().numpy().tobytes() for _ in range(40)]
            assert any(pixels not in straight for pixels in drawn) == mirrors


def test_large_pictures_are_cropped_at_random_sizes():
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 200, 256)
    transform = augment("standard", 96, mirrors=True)
    torch.manual_seed(0)
    spans = []
    for _ in range(50):
        picture = transform(ramp)
        assert picture.shape == (3, 96, 96)
        spans.append(abs(int(picture[0, 0, 0]) - int(picture[0, 0, -1])))
    assert min(spans) < 120
    assert max(spans) > 180


def test_validation_pictures_are_the_centre():
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256)
    assert torch.equal(fit(224)(ramp), ramp[:, 16:-16, 16:-16])  # Its side is 256 already.
    assert fit(224)(ramp[:, :100]).shape == (3, 224, 224)
    assert torch.equal(fit(32)(ramp[:, :32, :64]), ramp[:, :32, 16:48])
    assert fit(7)(ramp[:, :1, :1]).shape == (3, 7, 7)


def test_without_augmentation_training_pictures_are_as_those_for_validation():
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 128, 256)
    for resolution in (32, 96):
        assert torch.equal(augment("none", resolution, True)(ramp), fit(resolution)(ramp))


def test_normalisation():
    picture = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None]
    normalised = normalise(Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 2.0, 4.0)))(picture)
    torch.testing.assert_close(normalised.flatten(), torch.tensor([-1.0, -0.025, 0.25]))


def test_pictures_too_many_for_memory_are_the_same(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 6, size=(20, 12))
    loaded = load(tmp_path, augment="none")
    monkeypatch.setattr(pictures, "MEMORY_LIMIT", 0)
    unloaded = load(tmp_path, augment="none")
    assert isinstance(loaded.train.part.reader, MemoryReader)
    assert not isinstance(unloaded.train.part.reader, MemoryReader)
    for name in ("train", "train_weights", "train_gates", "val"):
        some, others = getattr(loaded, name), getattr(unloaded, name)
        assert len(some) == len(others)
        for index in range(len(some)):
            assert torch.equal(some[index][0], others[index][0])
            assert some[index][1] == others[index][1]


@pytest.mark.skipif(not (SHARED / "imagenette_folder").is_dir(), reason="needs the shared data")
def test_photographs():
    loaded = load(SHARED / "imagenette_folder", resolution=224)
    assert len(loaded.classes) == 10
    assert (len(loaded.train), len(loaded.val)) == (1000, 400)
    assert (len(loaded.train_weights), len(loaded.train_gates)) == (500, 500)
    sample = torch.stack([loaded.val[index][0] for index in range(0, 400, 20)])
    assert sample.shape == (20, 3, 224, 224)
    assert abs(sample.mean()) < 0.5
    assert 0.7 < sample.std() < 1.4
