"""Checkpoints: nested state in one safetensors file, exact to the bit and without pickles.

Tensors are stored under their path in the state, such as ``model.stem.conv.weight``, where every
safetensors tool finds them; everything else is JSON in the file's metadata. A checksum over both
tells a damaged file.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically

_FORMAT = "proxyless_ext/checkpoint/1"


def save_checkpoint(path: str | Path, state: Any) -> None:
    """Replace the checkpoint at `path` in one step: a kill leaves the old one or the new one.

    Args:
        path: of the file.
        state: dicts (keys are strings or integers), lists and tuples, at any depth, of tensors,
            numbers, strings, booleans and None: the state of modules, optimizers and loops. A
            `state_dict` alone makes a file of weights under their own names.

    Raises:
        UserError: the disk is full or the folder not writable; the previous checkpoint is intact.
        TypeError: the state holds something else.
    """
    Snapshot.of(state).write(path)


@dataclass(frozen=True)
class Snapshot:
    """A state as a checkpoint holds it, which does not change with what it was taken from.

    Attributes:
        tree: the state as JSON, with names in place of tensors.
        tensors: copies of them on the CPU.
    """

    tree: str
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, state: Any) -> Snapshot:
        """That of a state as `save_checkpoint` takes it."""
        tensors: dict[str, Tensor] = {}
        return cls(json.dumps(_encode(state, "", tensors)), tensors)

    def write(self, path: str | Path) -> None:
        """`save_checkpoint` of the state."""
        checksum = _checksum(self.tree, self.tensors)
        metadata = {"format": _FORMAT, "state": self.tree, "checksum": checksum}
        write_atomically(path, _in_order(save(self.tensors, metadata)))


def digest(state: Any, leave_out: Container[str] = ()) -> str:
    """A checksum of a state, as `save_checkpoint` takes it: equal where all bits are.

    Args:
        state: of modules, optimizers and loops.
        leave_out: last names of tensors that do not count, such as ``running_mean``.
    """
    snapshot = Snapshot.of(state)
    counting = {
        name: tensor
        for name, tensor in snapshot.tensors.items()
        if name.rpartition(".")[2] not in leave_out
    }
    return _checksum(snapshot.tree, counting)


def load_checkpoint(path: str | Path) -> Any:
    """The state that `save_checkpoint` wrote, its tensors on the CPU and independent of the file.

    Raises:
        UserError: the file cannot be read, is damaged, or is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error}; check the path") from error
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({error}); use another checkpoint or start anew"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise UserError(f"{path} is no checkpoint of proxyless_ext; use one that a run has written")
    tree = metadata.get("state", "")
    if metadata.get("checksum") != _checksum(tree, tensors):
        raise UserError(f"{path} is damaged; use another checkpoint or start anew")
    return _decode(json.loads(tree), tensors)


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata is sorted, so that equal states are equal bytes.

    The file begins with the length of its header in 8 bytes, and the header, which is JSON.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # Tensors stay aligned.
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, and their names into the JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = path
        while name in tensors or name == "__metadata__":  # A reserved name.
            name += "_"
        # A clone has a storage of its own, as safetensors wants it; the file has no strides.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": [name, torch.empty_like(value, device="meta").stride()]}
    if isinstance(value, list | tuple):
        items = [_encode(item, _join(path, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"a checkpoint cannot hold the key {key!r} at '{path}'")
        # Pairs, because the keys of a JSON object are strings.
        pairs = [[key, _encode(item, _join(path, key), tensors)] for key, item in value.items()]
        return {"dict": pairs}
    raise TypeError(f"a checkpoint cannot hold the {type(value).__name__} at '{path}'")


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "tensor":
            stored, stride = tensors[content[0]], content[1]
            # A copy, since `stored` is a view of the mapped file; of the memory format it had,
            # since kernels for different formats may round differently.
            return torch.empty_strided(stored.shape, stride, dtype=stored.dtype).copy_(stored)
        if kind == "tuple":
            return tuple(_decode(item, tensors) for item in content)
        return {key: _decode(item, tensors) for key, item in content}
    return value


def _checksum(tree: str, tensors: dict[str, Tensor]) -> str:
    checksum = zlib.crc32(tree.encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), checksum)
    return f"{checksum:08x}"
