"""What networks for several devices and targets cost in one run, and in a search for each.

    python -m benchmarks.specialise --config configs/digits.yaml \\
        --device configs/devices/onnxruntime.yaml --device configs/devices/batch32.yaml \\
        --target 30% --target 60%

Runs `proxyless specialise`, and then `proxyless search` for each device and target, and prints the
time that processors spent on each: other programs leave that nearly alone. What is in `--out`
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
from proxyless_ext.runs import Run


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
    print("| network | accuracy, together | accuracy, alone | alone, s |")
    print("|---|---|---|---|")
    total = 0.0
    for aim in aims:
        alone = arguments.out / f"alone-{aim.name}"
        seconds = processor_seconds(single(aim, arguments.config, arguments.out), alone)
        total += seconds
        accuracies = (Run(out).outcome_of(aim.name).result, Run(alone).outcome.result)
        told = " | ".join(f"{result.accuracy:.2%}" for result in accuracies)
        print(f"| {aim.name} | {told} | {seconds:.0f} |")
    print(f"together {together:.0f} s, alone {total:.0f} s: {together / total:.2f}")


if __name__ == "__main__":
    main()
