"""A command on several ranks, of which one is killed now and then.

    python -m benchmarks.soak --minutes 30 --kills 10 --out build/soak --figure build/soak.svg \\
        -- search --config configs/digits.yaml --set search.epochs=200

The command is one of `proxyless` that trains, without ``--out`` and ``--auto-resume``. torchrun
starts all ranks again after each SIGKILL, and `--auto-resume` goes on from the newest checkpoint.
Moments and ranks are drawn by a seed, over as many minutes as the command should take. Prints how
many kills it survived, whether every epoch was recorded once, and how memory and open files of a
rank grew between the first and the last of its minutes that were not the first after a start; draws
both over time. With `--compare` it is run again without kills, and the two are compared bit by bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from proxyless_ext.report.colours import BLUE, MUTED, ORANGE
from proxyless_ext.report.plot import add_legend, new_figure, save, styled
from proxyless_ext.runs import Run, digest, load_checkpoint, read_metrics

SAMPLE_SECONDS = 1.0
STARTING_SECONDS = 30.0
"""After a start, in which a rank imports and reads, and takes memory step by step."""


@dataclass
class Sample:
    """A rank at a moment.

    Attributes:
        seconds: since the command began.
        pid: of its process.
        age: of the process, in seconds.
        memory: resident, in MB.
        files: that are open.
    """

    seconds: float
    pid: int
    age: float
    memory: float
    files: int


@dataclass
class Soak:
    """A command that is watched and disturbed.

    Attributes:
        ranks: how many there are.
        moments: at which one of them is killed, in seconds, falling.
        samples: what was seen of them.
        kills: when one was killed.
    """

    ranks: int
    moments: list[float]
    rng: random.Random
    samples: list[Sample] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    born: dict[int, float] = field(default_factory=dict)

    def run(self, command: list[str]) -> int:
        """Start the command, and see it through; its exit code."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        restarts = f"--max-restarts={len(self.moments)}"
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}"]
        process = subprocess.Popen(
            [sys.executable, "-m", *launcher, restarts, "-m", "proxyless_ext", *command],
            env=environment,
        )
        started = time.monotonic()
        while process.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            now = time.monotonic() - started
            living = _children(process.pid)
            self.samples += filter(None, (self._sample(pid, now) for pid in living))
            if self.moments and now > self.moments[-1] and len(living) == self.ranks:
                self.moments.pop()
                self.kills.append(now)
                os.kill(self.rng.choice(living), signal.SIGKILL)
        return process.returncode

    def _sample(self, pid: int, now: float) -> Sample | None:
        born = self.born.setdefault(pid, now)
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # It has ended.
            return None
        megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return Sample(now, pid, now - born, megabytes, files)


def _children(pid: int) -> list[int]:
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in told.split()]


def growth(samples: list[Sample]) -> list[str]:
    """How a rank's memory and files changed over the run, once ranks had started."""
    settled = [each for each in samples if each.age > STARTING_SECONDS]
    third = len(settled) // 3
    if not third:
        return [f"memory and files: no rank lived for {STARTING_SECONDS:.0f} s"]
    lines = []
    for name, unit in (("memory", " MB"), ("files", "")):
        values = [getattr(each, name) for each in settled]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        lines.append(f"{name}: median {first:.0f}{unit} in the first third, {last:.0f} in the last")
    return lines


def repeated(run: Run) -> list[str]:
    """Epochs that were not recorded just once."""
    counts = Counter((each.phase, each.epoch) for each in read_metrics(run.metrics_path))
    return [f"{phase} {epoch}" for (phase, epoch), count in counts.items() if count != 1]


def same_bits(ours: Run, theirs: Run) -> bool:
    """Whether two runs have left the same states, but for the time that they took."""
    names = [path.name for path in sorted(ours.checkpoints_path.iterdir())]
    if names != [path.name for path in sorted(theirs.checkpoints_path.iterdir())]:
        return False
    states = (
        [load_checkpoint(run.checkpoints_path / name) for name in names] for run in (ours, theirs)
    )
    return all(
        digest(here["phase"]) == digest(there["phase"]) for here, there in zip(*states, strict=True)
    )


@styled
def draw(soak: Soak, path: Path) -> None:
    """Memory and open files of every rank over time, and the kills."""
    figure = new_figure(740, 340)
    above, below = figure.subplots(2, sharex=True)
    for axes, name, colour, title in (
        (above, "memory", BLUE, "Memory of each rank, MB"),
        (below, "files", ORANGE, "Open files of each rank"),
    ):
        for pid in dict.fromkeys(each.pid for each in soak.samples):
            own = [each for each in soak.samples if each.pid == pid]
            times = [each.seconds / 60 for each in own]
            axes.plot(times, [getattr(each, name) for each in own], color=colour, linewidth=1)
        for number, moment in enumerate(soak.kills):
            label = "a rank is killed" if axes is above and not number else None
            axes.axvline(moment / 60, color=MUTED, linewidth=0.8, linestyle="--", label=label)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    below.set_xlabel("minutes")
    add_legend(above, 1)
    save(figure, path)


def main() -> None:
    """Run, kill, and print what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="+", help="such as: search --config configs/digits.yaml")
    parser.add_argument("--ranks", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="(default: %(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="an empty folder")
    parser.add_argument("--figure", type=Path, help="SVG to draw")
    parser.add_argument("--compare", action="store_true", help="with a run without kills")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    moments = sorted(
        (60 * arguments.minutes * rng.uniform(0.05, 0.95) for _ in range(arguments.kills)),
        reverse=True,
    )
    command = [*arguments.command, "--auto-resume"]
    run = Run(arguments.out / "killed")
    soak = Soak(arguments.ranks, moments, rng)
    code = soak.run([*command, "--out", str(run.folder)])
    told = "the command ended" if code == 0 else f"the command failed with {code}"
    print(f"{told} after {soak.samples[-1].seconds / 60:.1f} minutes")
    print(f"kills survived: {len(soak.kills) - (code != 0)} of {arguments.kills}")
    print(f"epochs not recorded just once: {', '.join(repeated(run)) or 'none'}")
    print("\n".join(growth(soak.samples)))
    if arguments.figure:
        draw(soak, arguments.figure)
    if arguments.compare and code == 0:
        other = Run(arguments.out / "undisturbed")
        calm = Soak(arguments.ranks, [], rng)
        code = calm.run([*command, "--out", str(other.folder)])
        print("the same bits as without kills:", "yes" if same_bits(run, other) else "NO")
    sys.exit(code)


if __name__ == "__main__":
    main()
