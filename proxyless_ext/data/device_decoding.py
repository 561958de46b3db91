"""Pictures that a GPU decodes, out of files that other processes have read.

TorchCodec decodes: on a GPU by nvJPEG, on a CPU to the pixels that Pillow makes. It is no
dependency, and its import takes long.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .bad_pictures import PictureError
from .decoding import decode, is_plain_jpeg
from .parts import EncodedReader


def check_decoder() -> None:
    """See to it that TorchCodec is there.

    Raises:
        UserError: it is not.
    """
    if find_spec("torchcodec") is None:
        raise UserError(
            "runtime.decoding cuda needs the package torchcodec, which is not installed; install "
            "'torchcodec>=0.16', or set runtime.decoding to cpu"
        )


@dataclass(frozen=True)
class Files:
    """Pictures by their indices, as a process that reads hands them on.

    Attributes:
        paths: what messages call those that could be read.
        shapes: of their contents: (bytes,) of a plain JPEG's file, (3, H, W) of the pixels of any
            other.
        content: of all of them, in this order, uint8 [sum of sizes]: one tensor, since each takes
            a descriptor.
        errors: about those that could not be read.
    """

    paths: Mapping[int, Path]
    shapes: Mapping[int, tuple[int, ...]]
    content: Tensor
    errors: Mapping[int, PictureError]

    @classmethod
    def read(cls, reader: EncodedReader, numbers: Mapping[int, int]) -> Files:
        """Pictures of `reader`, by the index and the number of each."""
        paths: dict[int, Path] = {}
        contents: dict[int, Tensor] = {}
        errors: dict[int, PictureError] = {}
        for index, number in numbers.items():
            path = reader.path(number)
            try:
                contents[index] = _content(path, reader.content(number))
                paths[index] = path
            except PictureError as error:
                errors[index] = error
        shapes = {index: tuple(content.shape) for index, content in contents.items()}
        flat = [content.flatten() for content in contents.values()]
        return cls(paths, shapes, torch.cat(flat) if flat else torch.empty(0), errors)

    def decode(self, device: torch.device) -> Callable[[int], Tensor]:
        """What gives the pixels at an index, uint8 [3, H, W] on `device`, or raises its error.

        What the device refuses is decoded on the CPU, with a warning if that succeeds.
        """
        from torchcodec.decoders import decode_jpeg

        flat = self.content.split([math.prod(shape) for shape in self.shapes.values()])
        contents = {
            index: content.view(shape)
            for (index, shape), content in zip(self.shapes.items(), flat, strict=True)
        }
        files = {index: content for index, content in contents.items() if content.dim() == 1}
        found: dict[int, Tensor | PictureError] = dict(self.errors)
        found.update((index, contents[index].to(device)) for index in contents.keys() - files)
        try:
            found.update(zip(files, decode_jpeg(list(files.values()), device=device), strict=True))
        except RuntimeError:  # It says of all that one of them is damaged.
            for index, file in files.items():
                found[index] = _decode_alone(self.paths[index], file, device)

        def pixels(index: int) -> Tensor:
            picture = found[index]
            if isinstance(picture, PictureError):
                raise picture
            return picture

        return pixels


def _content(path: Path, content: bytes) -> Tensor:
    if is_plain_jpeg(content):
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode(path, content)


def _decode_alone(path: Path, file: Tensor, device: torch.device) -> Tensor | PictureError:
    from torchcodec.decoders import decode_jpeg

    try:
        [pixels] = decode_jpeg([file], device=device)
    except RuntimeError as refusal:
        try:
            pixels = decode(path, file.numpy().tobytes()).to(device)
        except PictureError as error:
            return error
        message = f"{path}: decoded on the CPU, since {device} refused: {refusal}"
        warnings.warn(message, stacklevel=2)
    return pixels
