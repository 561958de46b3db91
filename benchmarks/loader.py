"""Pictures per second that are read, beside torchvision's ImageFolder and PyTorch's DataLoader.

    python -m benchmarks.loader FOLDER
    python -m benchmarks.loader FOLDER --workers 2 --pictures 4000
    python -m benchmarks.loader FOLDER --workers 2 --pictures 4000 --decoding cuda

FOLDER has class folders below ``train``. Peers, in one process and in turn:

    folder        `batches` of the folder
    shards        `batches` of shards made of it
    decoding      `batches` of the folder, decoded on the device of ``--decoding``
    torchvision   ImageFolder with the usual transforms (random resized crop, mirrored, to a
                  tensor, normalised) and a DataLoader that shuffles

Each reads so many training pictures, in as many batches, with its workers started anew as at the
beginning of an epoch. Times are medians over all rounds; without workers, one core reads. Prints
pictures per second and their ratios to torchvision's, and writes loader.json and loader.md.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from proxyless_ext.bench.records import Conditions
from proxyless_ext.bench.text import table, with_spread
from proxyless_ext.bench.timing import Timing, alternate
from proxyless_ext.data import DataConfig, batches, load_pictures, make_shards
from proxyless_ext.data.sources import IMAGENET

from .options import new_parser, parse
from .results import Bar, bars_table, write

TRAIN = "train"


def main() -> None:
    """Measure, judge and write."""
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=Path, help="of pictures")
    parser.add_argument("--workers", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--decoding", choices=["cpu", "cuda"], help="measure it on a device, too")
    parser.add_argument("--pictures", type=int, help="in a run (default: 640)")
    usual = {"rounds": 5, "pictures": 640}
    arguments = parse(parser, usual, {"rounds": 1, "pictures": 8, "batch": 4, "resolution": 72})
    with tempfile.TemporaryDirectory() as folder:
        make_shards(arguments.folder, Path(folder), pictures=1000, processes=1)
        runs = _runs(arguments, {"folder": arguments.folder, "shards": Path(folder)})
        timings = alternate(runs, arguments.rounds)
    results = {
        "conditions": Conditions.here().model_dump(mode="json"),
        "settings": {
            name: getattr(arguments, name)
            for name in ("batch", "resolution", "rounds", "workers", "pictures", "decoding")
        },
        "pictures_per_second": {
            name: arguments.pictures / timing.median for name, timing in timings.items()
        },
    }
    bars = judge(results)
    write(arguments.out, "loader", results, bars, _text(results, timings, bars))


def judge(results: dict[str, Any]) -> list[Bar]:
    """The bars, against torchvision."""
    speeds = results["pictures_per_second"]
    return [
        Bar(f"{name} / torchvision", speeds[name] / speeds["torchvision"], "at_least", 1.0, 1.5)
        for name in ("folder", "shards")
    ]


def _runs(arguments: Any, sources: dict[str, Path]) -> dict[str, Callable[[], None]]:
    batch, resolution, workers = arguments.batch, arguments.resolution, arguments.workers

    def take(loader: Iterable[Any]) -> None:
        read = sum(
            len(labels) for _, labels in itertools.islice(loader, arguments.pictures // batch)
        )
        assert read == arguments.pictures, "the folder has fewer pictures than a run takes"
        if arguments.decoding == "cuda":
            torch.cuda.synchronize()

    def ours(source: Path, decoding: torch.device | None = None) -> Callable[[], None]:
        dataset = load_pictures(DataConfig(source=str(source)), resolution, seed=0).train
        settings = {"workers": workers, "decoding": decoding}
        return lambda: take(batches(dataset, batch, 0, "train", 0, **settings))

    theirs = datasets.ImageFolder(
        arguments.folder / TRAIN,
        transforms.Compose(
            [
                transforms.RandomResizedCrop(resolution),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        ),
    )
    loader = DataLoader(theirs, batch, shuffle=True, num_workers=workers, drop_last=True)
    runs = {name: ours(source) for name, source in sources.items()}
    if arguments.decoding:
        runs["decoding"] = ours(sources["folder"], torch.device(arguments.decoding))
    return {**runs, "torchvision": lambda: take(loader)}


def _text(results: dict[str, Any], timings: dict[str, Timing], bars: list[Bar]) -> str:
    speeds = results["pictures_per_second"]
    rows = [[name, with_spread(timing), f"{speeds[name]:.0f}"] for name, timing in timings.items()]
    parts = [
        "# Reading pictures",
        Conditions(**results["conditions"]).describe(),
        table(["peer", "ms", "pictures/s"], rows),
        bars_table(bars),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
