"""Search a space whose every network is known, and say how good what was found is.

    python -m benchmarks.search_quality benchmarks/ground_truth/fashion.json \\
        --config benchmarks/ground_truth/fashion.yaml --set data.root=FOLDER

Searches as `proxyless search` does, at three targets and with ten seeds, and looks up what the
networks found come to. `--name` keeps searches with other settings apart, such as

    --name published --set search.paths=sampled --set derive.networks=0

Scores are kept in `build/quality` as they come; the same command goes on after an interruption,
and prints all that are there beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from proxyless_ext.config import Config, load_config, parse_override
from proxyless_ext.data import load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.progress import progress_bar
from proxyless_ext.runs import Run
from proxyless_ext.search import Task, derive_choices
from proxyless_ext.search.candidates import Band
from proxyless_ext.search.derivation import short_lists
from proxyless_ext.search.short_list import Listing, ShortList
from proxyless_ext.search.stages import Stages
from proxyless_ext.training.running import run_phase

from .quality import SearchScore, describe, draw, look_up
from .truth import Truth, truth_settings


def score_search(config: Config) -> SearchScore:
    """One search up to its finalists, and what its supernet and its alphas say of the whole band.

    The finalists' training is that of the truth, so it need not be done again.
    """
    warnings.simplefilter("ignore")
    task = Task.load(config, None)
    settings = config.model_dump(mode="json")
    inventory = task.data.inventory.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        run = Run.create(folder, settings, config.seed, inventory)
        stages = Stages.prepare(run, config, task)
        (goal,) = stages.goals
        started = time.process_time()
        supernet = stages.search()
        if config.derive.networks:
            (finalists,) = short_lists(stages, supernet)
        else:
            finalists = [derive_choices(supernet, goal.objective)]
        searched = time.process_time()
        stages.train(supernet, finalists[0])
        trained = time.process_time()
        band = Band.of(goal.objective)
        everyone = band.drawn(task.space.num_networks, 0)
        once = config.model_copy(
            update={"derive": config.derive.model_copy(update={"generations": 0})}
        )
        scores = stages.path_scores
        listing = Listing("shortlist", band, goal.log_probabilities, everyone)
        whole = ShortList(supernet, once, task.runtime, task.data, scores, [listing])
        run_phase(whole, Run.create(other, settings, 0, inventory), config.seed, 1e9)
    return SearchScore(
        seed=config.seed,
        target=config.latency.target,
        finalists=tuple(finalists),
        round=config.derive.round,
        scored=tuple(listing.scored),
        trainings=(searched - started) / (trained - searched),
    )


def main() -> None:
    """Search what has not been searched yet; print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("truth", type=Path, help="the table of all networks")
    parser.add_argument("--config", type=Path, required=True, help="as the table was made with")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, may be repeated")
    parser.add_argument("--name", default="search", help="of these settings")
    parser.add_argument("--seeds", type=int, default=10, help="searches per target")
    parser.add_argument("--targets", nargs="+", default=["30%", "50%", "70%"])
    parser.add_argument("--out", type=Path, default=Path("build/quality"), help="a folder")
    parser.add_argument("--figure", type=Path, help="where to draw: .svg, .png or .pdf")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    config = load_config(arguments.config, dict(map(parse_override, arguments.set)))
    space = config.space.build()
    data = load_pictures(config.data, space.resolution, config.seed)
    space = space.with_classes(len(data.classes))
    truth = Truth.load(arguments.truth, truth_settings(config), space, data.inventory)

    path = arguments.out / f"{arguments.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    known = {(score.seed, score.target) for score in read_scores(path)}
    left = [
        config.model_copy(
            update={
                "seed": seed,
                "latency": config.latency.model_copy(update={"target": target}),
            }
        )
        for seed, target in product(range(arguments.seeds), arguments.targets)
        if (seed, target) not in known
    ]
    with (
        progress_bar("searches", len(left)) as bar,
        ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool,
        path.open("a") as file,
    ):
        for score in pool.map(score_search, left):
            print(score.model_dump_json(), file=file, flush=True)
            bar.advance()
    scores = {path.stem: read_scores(path) for path in sorted(arguments.out.glob("*.jsonl"))}
    found = look_up(truth, config.latency, scores)
    print("\n".join(describe(found)))
    if arguments.figure:
        draw(found, arguments.figure)


def read_scores(path: Path) -> list[SearchScore]:
    """The scores that were kept."""
    return [SearchScore.model_validate(json.loads(line)) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
