"""Checkpoints: exact round trips, and what damage, kills and full disks do to them."""

import math
import os
import pickle
import resource
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from proxyless_ext.errors import UserError
from proxyless_ext.runs import load_checkpoint, save_checkpoint

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def bits(tensor: torch.Tensor) -> bytes:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a, b) -> bool:
    """Whether two states agree in every type and bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return math.isnan(a) == math.isnan(b) and (
            a != a or struct.pack("d", a) == struct.pack("d", b)
        )
    return a == b


@st.composite
def tensors(draw):
    """Tensors of random bits, NaNs among them, of any layout."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    tensor = (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(shape)
    if shape:
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
        if draw(st.booleans()):
            tensor = tensor[draw(st.integers(0, 1)) :: 2]
    return tensor


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors()
states = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.sampled_from("ab.01"), inner)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@given(state=states)
def test_any_state_comes_back_to_the_bit(folder, state):
    save_checkpoint(folder / "state", state)
    assert same(load_checkpoint(folder / "state"), state)


def test_equal_states_are_equal_files(tmp_path):
    state = {"weights": torch.arange(3.0), "more": {"step": 7}}
    for index in range(9):  # The order of an unsorted header is drawn anew for every file.
        save_checkpoint(tmp_path / str(index), state)
    assert len({(tmp_path / str(index)).read_bytes() for index in range(9)}) == 1


def test_names_that_collide_are_kept_apart(tmp_path):
    state = {
        "a.b": torch.tensor(1),
        "a": {"b": torch.tensor(2), "b_": torch.tensor(3)},
        "1": torch.tensor(4),
        1: torch.tensor(5),
        "__metadata__": torch.tensor(6),
        "": torch.tensor(7),
    }
    save_checkpoint(tmp_path / "state", state)
    assert same(load_checkpoint(tmp_path / "state"), state)


def test_memory_format_and_strides_come_back(tmp_path):
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    depthwise = torch.randn(6, 1, 3, 3).to(memory_format=torch.channels_last)
    state = [
        pictures,
        depthwise,
        torch.randn(3, 4).t(),
        torch.randn(1).expand(4, 2),
        torch.randn(9)[3:],
    ]
    save_checkpoint(tmp_path / "state", state)
    loaded = load_checkpoint(tmp_path / "state")
    assert same(loaded, state)
    for before, after in zip(state, loaded, strict=True):
        assert after.stride() == before.clone().stride()


def test_tied_and_overlapping_tensors(tmp_path):
    weight = torch.arange(6.0)
    state = {"tied": weight, "same": weight, "part": weight[2:4], "matrix": weight.view(2, 3).t()}
    save_checkpoint(tmp_path / "state", state)
    assert same(load_checkpoint(tmp_path / "state"), state)


def test_parameters_become_plain_tensors_and_stay_as_they_are(tmp_path):
    layer = nn.Linear(3, 2)
    save_checkpoint(tmp_path / "state", {"weight": layer.weight})
    loaded = load_checkpoint(tmp_path / "state")["weight"]
    assert type(loaded) is torch.Tensor
    assert not loaded.requires_grad
    assert layer.weight.requires_grad
    assert torch.equal(loaded, layer.weight)


def test_what_was_loaded_does_not_depend_on_the_file(tmp_path):
    path = tmp_path / "state"
    save_checkpoint(path, [torch.ones(1000), torch.ones(1000)])
    first, second = load_checkpoint(path)
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    assert first.eq(1).all()
    assert second.eq(1).all()
    first.add_(1)
    assert second.eq(1).all()


def test_weights_are_found_under_their_names_by_other_tools(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    save_checkpoint(tmp_path / "weights.safetensors", model.state_dict())
    read = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", {"key": {(1, 2): 0}}, [1, {2.5: 0}], 1j]
)
def test_what_cannot_come_back_is_refused_before_anything_is_written(tmp_path, value):
    save_checkpoint(tmp_path / "state", "old")
    with pytest.raises(TypeError, match=r"a checkpoint cannot hold the .* at 'phase\.value"):
        save_checkpoint(tmp_path / "state", {"phase": {"value": value}})
    assert load_checkpoint(tmp_path / "state") == "old"


class Exploit:
    def __reduce__(self):
        return os.abort, ()


def foreign(path):
    """Files that are no checkpoints, by name."""
    tensors = {"weight": torch.ones(3)}
    safetensors.torch.save_file(tensors, path / "tensors only")
    other = {"format": "pt", "state": "null", "checksum": "00000000"}
    safetensors.torch.save_file(tensors, path / "of another program", other)
    torch.save(tensors, path / "torch pickle")
    (path / "pickle").write_bytes(pickle.dumps(Exploit()))
    (path / "empty").touch()
    (path / "text").write_text("seed: 3\n" * 100)
    (path / "folder").mkdir()
    return [*path.iterdir(), path / "missing"]


def test_foreign_files_are_one_sentence(tmp_path):
    paths = foreign(tmp_path)
    assert len(paths) == 8
    for path in paths:
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def whole(folder):
    """A checkpoint's state and bytes."""
    state = {
        "model": {"weight": torch.arange(20.0), "count": torch.tensor(3)},
        "epoch": 7,
        "lr": 0.1,
    }
    save_checkpoint(folder / "whole", state)
    return state, (folder / "whole").read_bytes()


def test_truncated_at_any_length(folder, whole):
    _, data = whole
    path = folder / "truncated"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            load_checkpoint(path)


def test_a_changed_byte_anywhere_is_noticed(folder, whole):
    state, data = whole
    path = folder / "changed"
    unnoticed = 0
    for position, byte in enumerate(data):
        flipped = byte ^ (0x01, 0x80, 0xFF)[position % 3]
        path.write_bytes(data[:position] + bytes([flipped]) + data[position + 1 :])
        try:
            assert same(load_checkpoint(path), state)
            unnoticed += 1
        except UserError:
            pass
    assert unnoticed <= 8  # White space that pads the header.


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    return layers.to(memory_format=torch.channels_last)


def train(model, optimizer, steps) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        pictures = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        model(pictures).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "build",
    [
        lambda weights: torch.optim.SGD(
            weights, 0.05, momentum=0.9, weight_decay=4e-5, nesterov=True
        ),
        lambda weights: torch.optim.Adam(weights, 1e-3, betas=(0.0, 0.999)),
        lambda weights: torch.optim.Adam(weights, 1e-2, amsgrad=True),
    ],
)
def test_optimizers_continue_to_the_bit(tmp_path, build):
    model = network()
    optimizer = build(model.parameters())
    train(model, optimizer, range(3))
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "state", state)
    train(model, optimizer, range(3, 8))

    resumed = network()
    resumed_optimizer = build(resumed.parameters())
    loaded = load_checkpoint(tmp_path / "state")
    resumed.load_state_dict(loaded["model"])
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    train(resumed, resumed_optimizer, range(3, 8))

    assert same(dict(resumed.state_dict()), dict(model.state_dict()))
    expected, actual = optimizer.state_dict(), resumed_optimizer.state_dict()
    assert same(actual, expected)
    for index, entries in expected["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert actual["state"][index][name].stride() == value.stride()


def test_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "state"
    save_checkpoint(path, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # Fails in the middle of the file.
    try:
        with pytest.raises(
            UserError, match=r"what was there before is intact, so free some disk space"
        ):
            save_checkpoint(path, {"epoch": 2, "weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


# Forks writers that save for ever, kills each at a random moment, and looks at what is there.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from proxyless_ext.files import remove_leftovers
from proxyless_ext.runs import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
random.seed(0)
folder = Path(sys.argv[1])
path = folder / "state"
started = time.monotonic()
save_checkpoint(path, {"count": 0, "weight": torch.zeros(300_000)})
took = time.monotonic() - started
last = in_the_middle = 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        count = last
        while True:
            count += 1
            save_checkpoint(path, {"count": count, "weight": torch.full((300_000,), float(count))})
    time.sleep(random.uniform(0.0, 4 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = load_checkpoint(path)
    assert state["count"] >= last and state["weight"].eq(state["count"]).all(), state
    last = state["count"]
    leftovers = sum(1 for _ in folder.iterdir()) - 1
    assert leftovers <= 1
    in_the_middle += leftovers
    remove_leftovers(folder)
assert list(folder.iterdir()) == [path]
print(last, in_the_middle)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    saved, in_the_middle = map(int, process.stdout.split())
    assert saved > 10  # The writers got somewhere, and
    assert in_the_middle > 5  # many were killed while they wrote.
