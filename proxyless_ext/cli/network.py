"""Commands about single networks: train, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import zoo
from ..data import load_pictures
from ..errors import UserError
from ..export import export_onnx
from ..runs import Run
from ..spaces import Architecture
from ..training.networks import (
    load_network,
    prepare_training,
    run_training,
    validate_network,
)
from ..training.setup import set_up_torch
from .app import app
from .command import command, console
from .options import (
    ConfigOption,
    DataOption,
    OutOption,
    ResumeOption,
    SetOption,
    begin,
    choose_run,
    configuration,
)

RunArgument = Annotated[Path, typer.Argument(help="Run folder.")]


@command(app)
def train(
    network: Annotated[
        str | None,
        typer.Argument(help="Architecture file, published .config, run folder or zoo name."),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    seed: Annotated[int | None, typer.Option(help="Of every random decision.")] = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    assignments: SetOption = None,
) -> None:
    """Train one network from fresh weights."""
    if (network is None) == (resume is None):
        raise UserError("give either a network to train or --resume with a run to go on with")
    settings = configuration(config, assignments, data__source=data, seed=seed)
    given = any(option is not None for option in (config, data, seed, assignments))
    run, settings = choose_run("train", out, resume, settings, given)
    wanted = read_architecture(network or str(resume))
    wanted, pictures = prepare_training(settings, wanted)
    begin(run, settings)
    result = run_training(run, settings, wanted, pictures)
    console.print(f"accuracy: {result['accuracy']:.2%} (top-5 {result['top5']:.2%})")
    console.print(
        f"network:  {run.architecture_path}, {run.weights_path.name}, {run.onnx_path.name}"
    )


@command(app)
def evaluate(run: RunArgument, data: DataOption = None, assignments: SetOption = None) -> None:
    """Accuracy of a run's network on validation pictures, by default those of the run."""
    opened = Run.open(run)
    network = load_network(opened)
    # On the run's configuration, whose seed says which pictures were never trained on.
    settings = configuration(opened.config_path, assignments, data__source=data)
    set_up_torch(settings)
    architecture = network.architecture
    pictures = load_pictures(
        settings.data, architecture.resolution, settings.seed, architecture.normalisation
    )
    if pictures.classes != architecture.classes:
        raise UserError(
            f"the classes of {settings.data.source} are not those the network was trained for "
            f"({', '.join((architecture.classes or ())[:5])} ...); give pictures of those"
        )
    scores = validate_network(network.to(settings.device), settings, pictures)
    console.print(
        f"accuracy: {scores.accuracy:.2%}, top-5 {scores.top5:.2%}, loss {scores.loss:.4f} "
        f"on {len(pictures.val)} pictures"
    )


@command(app)
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("network.onnx"),
) -> None:
    """Write a run's network as ONNX, checked against ONNX Runtime."""
    network = load_network(Run.open(run))
    difference = export_onnx(network, network.architecture.resolution, out)
    console.print(f"{out}: differs from PyTorch by at most {difference:.2g}")


def read_architecture(source: str) -> Architecture:
    """The architecture of a run folder, a file of ours, a published file, or the zoo.

    Raises:
        UserError: it is none of these.
    """
    if source in zoo.NETWORKS:
        return zoo.architecture(source)
    path = Path(source)
    if path.is_dir():
        path = Run.open(path).architecture_path
    if not path.exists():
        raise UserError(
            f"'{source}' is no run folder, no file, and no network of the zoo "
            f"({', '.join(zoo.NETWORKS)})"
        )
    return zoo.import_config(path) if path.suffix == ".config" else Architecture.load(path)
