"""What networks for several devices and targets cost in one run, and in a search for each.

    python -m benchmarks.specialise --config configs/digits.yaml \\
        --device configs/devices/onnxruntime.yaml --device configs/devices/batch32.yaml \\
        --target 30% --target 60%

Runs `proxyless specialise`, and then `proxyless search` for each device and target. Prints the
seconds until a network is chosen, finalists included, and the time that processors spent on all of
it, with the trainings that follow: other programs leave the latter nearly alone. What is in `--out`
already is not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from proxyless_ext.config import Aim, load_config, read_devices
from proxyless_ext.documents import write_document
from proxyless_ext.runs import Result, Run


def processor_seconds(arguments: list[str], out: Path) -> float:
    """What a command takes that leaves a run in a folder, or took before."""
    told = out.with_suffix(".json")
    if not told.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "proxyless_ext", *arguments, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        told.write_text(json.dumps(spent))
    return float(json.loads(told.read_text()))


def search_seconds(result: Result) -> float:
    """Until the network was chosen; of phases that networks share, its part."""
    return sum(each for kind, each in result.seconds.items() if kind != "train")


def _ratio(together: float, alone: float) -> str:
    return f"together {together:.0f} s, alone {alone:.0f} s, {together / alone:.2f}"


def single(aim: Aim, config: Path, out: Path) -> list[str]:
    """The arguments of a search for one device and target."""
    tree = load_config(config, {}).model_dump(mode="json")
    tree["latency"] = aim.latency.model_dump(mode="json")
    path = out / f"{aim.name}.yaml"
    path.write_text(write_document(tree))
    return ["search", "--config", str(path)]


def main() -> None:
    """Run what has not been run yet; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="of all runs")
    parser.add_argument("--device", type=Path, action="append", required=True, help="its file")
    parser.add_argument("--target", action="append", required=True, help="on every device")
    parser.add_argument("--out", type=Path, default=Path("build/specialise"), help="a folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    given = {"devices": read_devices(arguments.device), "targets": arguments.target}
    aims = load_config(arguments.config, given).aims
    options = ["specialise", "--config", str(arguments.config)]
    for name in ("device", "target"):
        for value in getattr(arguments, name):
            options += [f"--{name}", str(value)]
    out = arguments.out / "together"
    together = processor_seconds(options, out)
    print("| network | accuracy, together | accuracy, alone | search, together | search, alone |")
    print("|---|---|---|---|---|")
    total, searches = 0.0, [0.0, 0.0]
    for aim in aims:
        alone = arguments.out / f"alone-{aim.name}"
        total += processor_seconds(single(aim, arguments.config, arguments.out), alone)
        results = (Run(out).outcome_of(aim.name).result, Run(alone).outcome.result)
        seconds = [search_seconds(result) for result in results]
        searches = [sum(pair) for pair in zip(searches, seconds, strict=True)]
        told = [f"{result.accuracy:.2%}" for result in results] + [
            f"{each:.0f} s" for each in seconds
        ]
        print(f"| {aim.name} | {' | '.join(told)} |")
    print(
        f"searches: {_ratio(*searches)}; with trainings, on processors: {_ratio(together, total)}"
    )


if __name__ == "__main__":
    main()
