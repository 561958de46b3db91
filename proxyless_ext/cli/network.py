"""Commands about single networks: train, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..runs import Run, check_output
from ..runtime import Runtime
from ..training.continuity import held_out_pictures
from ..training.networks import export_network, load_network, validate_network
from ..training.run import TrainingTask, run_training
from .app import commands
from .command import command, console
from .options import (
    ConfigOption,
    DataOption,
    OutOption,
    PluginOption,
    ResumeOption,
    SetOption,
    begun,
    configuration,
    resumed,
)
from .sources import read_architecture

RunArgument = Annotated[Path, typer.Argument(help="Run folder.")]


@command(commands, resumable=True, on_ranks=True)
def train(
    network: Annotated[
        str | None,
        typer.Argument(help="Architecture file, published .config, run folder or zoo name."),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    seed: Annotated[int | None, typer.Option(help="Of every random decision.")] = None,
    plugin: PluginOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    assignments: SetOption = None,
) -> None:
    """Train one network from fresh weights."""
    if (network is None) == (resume is None):
        raise UserError("give either a network to train or --resume with a run to go on with")
    given = any(option is not None for option in (config, data, seed, plugin, assignments))
    run = resumed("train", out, resume, given)
    settings = configuration(
        run.config_path if run else config,
        assignments,
        data__source=data,
        seed=seed,
        plugins=plugin and [str(each) for each in plugin],
    )
    wanted = read_architecture(network or str(resume))
    task = TrainingTask.load(settings, wanted, run)
    settings = settings.anchored()
    run = begun(run, out, settings, task.data)
    result = run_training(run, settings, task)
    outcome = run.outcome
    console.print(f"accuracy: {result.accuracy:.2%} (top-5 {result.top5:.2%})")
    console.print(
        f"network:  {outcome.architecture_path}, {outcome.weights_path.name}, "
        f"{outcome.onnx_path.name}"
    )


@command(commands, on_ranks=True)
def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(help="Pictures to test on, instead of those that the run validated on."),
    ] = None,
    assignments: SetOption = None,
) -> None:
    """Accuracy of a run's network on pictures that it was not trained on."""
    opened = Run.open(run)
    network = load_network(opened)
    settings = configuration(opened.config_path, assignments, data__source=data)
    runtime = Runtime.set_up(settings.runtime)
    pictures = held_out_pictures(opened, settings, network.architecture, own=data is None)
    scores = validate_network(network.to(runtime.device), settings, runtime, pictures)
    console.print(
        f"accuracy: {scores.accuracy:.2%}, top-5 {scores.top5:.2%}, loss {scores.loss:.4f} "
        f"on {len(pictures)} pictures"
    )


@command(commands)
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("network.onnx"),
) -> None:
    """Write a run's network as ONNX, checked against ONNX Runtime."""
    check_output(out)
    network = load_network(Run.open(run))
    difference = export_network(network, network.architecture, out)
    console.print(f"{out}: differs from PyTorch by at most {difference:.2g}")
