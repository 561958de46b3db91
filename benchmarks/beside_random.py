"""Networks that searches found, beside random ones of the same band, all trained alike.

    python -m benchmarks.beside_random runs/a runs/b runs/c --config configs/cifar10_hour.yaml \\
        --set data.source=FOLDER --set latency.table=runs/a/latency.yaml --out build/beside.json

Every network is trained with each of the seeds, as by `proxyless train`, and tested on all
validation pictures. Says how far those found are from the random ones, and by a permutation test
over networks how likely chance gives as much. Trainings are kept beside `--out` as they end; the
same command goes on after an interruption, also with more runs or more random networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from scipy.stats import permutation_test

from proxyless_ext.config import load_config, parse_override
from proxyless_ext.errors import UserError
from proxyless_ext.runs import Run
from proxyless_ext.search import Objective
from proxyless_ext.search.candidates import Band, Choices
from proxyless_ext.spaces import Space

from .trainings import Trainer, train_all
from .truth import Truth


def found_in(folder: Path, space: Space) -> Choices:
    """The network that a search found.

    Raises:
        UserError: the run has none, or searched another space.
    """
    run = Run.open(folder)
    searched = Space.load(run.space_path)
    if searched.edges != space.edges:
        raise UserError(f"{folder} searched another space than '{space.name}'; leave it out")
    choices = run.outcome.result.choices
    if choices is None:
        raise UserError(f"{folder} has not ended; go on with --resume {folder}")
    return choices


def check_numbers(arguments: argparse.Namespace) -> None:
    """Refuse what tells nothing.

    Raises:
        UserError: says what to give.
    """
    for name, least in (("networks", 2), ("seeds", 1), ("processes", 1)):
        if (given := getattr(arguments, name)) < least:
            raise UserError(f"--{name} is {given}; give at least {least}")
    folders = {folder.resolve() for folder in arguments.runs}
    if len(folders) < len(arguments.runs):
        raise UserError("a run is given twice; give each of them once")
    if len(folders) < 2:
        raise UserError("one run tells nothing of its settings; give two or more of other seeds")


def random_ones(trainer: Trainer, count: int) -> list[Choices]:
    """Networks of the configuration's band; the first of more are the same."""
    objective = Objective.of_space(trainer.space, trainer.table, trainer.config.latency)
    return Band.of(objective).drawn(count, seed=0)


def describe(truth: Truth, found: Sequence[Choices], random: Sequence[Choices]) -> Iterator[str]:
    """A table of both kinds, and how they compare."""
    theirs = [truth[choices].accuracy for choices in random]
    ours = [truth[choices].accuracy for choices in found]
    yield "| networks | number | mean | sd | worst | best |"
    yield "|---|---|---|---|---|---|"
    for name, accuracies in (("found", ours), ("random", theirs)):
        sd = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        figures = (statistics.fmean(accuracies), sd, min(accuracies), max(accuracies))
        yield f"| {name} | {len(accuracies)} | {' | '.join(f'{each:.2%}' for each in figures)} |"
    yield ""
    test = permutation_test(
        (ours, theirs),
        lambda first, second, axis: first.mean(axis) - second.mean(axis),
        alternative="greater",
        n_resamples=100_000,  # All divisions where there are not more.
        random_state=0,
    )
    beaten = statistics.fmean(our >= their for our in ours for their in theirs)
    yield (
        f"Found minus random: {100 * test.statistic:+.2f} points, p = {test.pvalue:.2g}; a network "
        f"found is as good as {beaten:.0%} of the random ones, or better."
    )


def main() -> None:
    """Train what is not trained yet, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished searches")
    parser.add_argument("--config", type=Path, required=True, help="as the runs were made with")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, may be repeated")
    parser.add_argument("--networks", type=int, default=20, help="random ones")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network")
    parser.add_argument("--out", type=Path, required=True, help="the figures, .json")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    check_numbers(arguments)
    config = load_config(arguments.config, dict(map(parse_override, arguments.set)))
    trainer = Trainer.load(config)
    found = [found_in(folder, trainer.space) for folder in arguments.runs]
    random = random_ones(trainer, arguments.networks)
    networks = {*found, *random}
    truth = train_all(trainer, networks, arguments.out, arguments.seeds, arguments.processes)
    print("\n".join(describe(truth, found, random)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
