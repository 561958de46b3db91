"""Networks of a run: made, trained, published as files, and loaded again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..config import Config
from ..data import Pictures, PictureSet
from ..errors import UserError
from ..export import export_onnx
from ..nn import Network, count_macs, count_parameters
from ..runs import Outcome, Run, load_checkpoint, phase_kind, save_checkpoint
from ..runtime import Runtime
from ..seeding import derive_seed
from ..spaces import Architecture
from .evaluation import Accuracy, evaluate
from .running import Begun, begin_phase, run_phase
from .train import Train


def for_data(architecture: Architecture, config: Config, data: Pictures) -> Architecture:
    """The architecture with what it takes from `data`, and the dropout of `config`."""
    fields = {
        "num_classes": len(data.classes),
        "classes": data.classes,
        "normalisation": data.normalisation,
        "dropout": config.train.dropout,
    }
    return architecture.model_copy(update=fields)


def seeded_network(
    architecture: Architecture, config: Config, runtime: Runtime, name: str
) -> Network:
    """A network with the initial weights that the run's seed and the kind of phase `name` give."""
    torch.manual_seed(derive_seed(config.seed, phase_kind(name), "weights"))
    return Network(architecture).to(memory_format=torch.channels_last).to(runtime.device)


def train_network(
    network: nn.Module,
    run: Run,
    config: Config,
    runtime: Runtime,
    data: Pictures,
    name: str = "train",
    begun: Begun | None = None,
) -> tuple[nn.Module, float]:
    """Train `network` as phase `name`: the averaged network, in eval mode, and the seconds.

    Where its training has `begun`, it goes on.
    """
    phase = Train(network, config, runtime, data, name)
    if begun:
        begin_phase(phase, run, begun)
    seconds = run_phase(phase, run, config.seed, config.checkpoint_seconds, config.checkpoints_kept)
    return phase.result, seconds


def validate_network(
    network: nn.Module, config: Config, runtime: Runtime, pictures: PictureSet
) -> Accuracy:
    """Accuracy of a network on `runtime`'s device, in float32, in which it is handed over."""
    return evaluate(
        network, pictures, config.train.batch_size, runtime.exact(), config.data.workers
    )


def network_size(network: nn.Module, resolution: int) -> dict[str, int]:
    """``parameters``, and ``macs`` for one picture."""
    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network, resolution),
    }


def publish_network(network: nn.Module, architecture: Architecture, outcome: Outcome) -> float:
    """Write a trained network's architecture, weights and ONNX file.

    Returns:
        The largest difference between PyTorch and ONNX Runtime in the logits of random pictures.
    """
    architecture.save(outcome.architecture_path)
    save_checkpoint(outcome.weights_path, network.state_dict())
    return export_network(network, architecture, outcome.onnx_path)


def export_network(network: nn.Module, architecture: Architecture, path: Path) -> float:
    """Write a trained network as an ONNX file that says how it wants its pictures.

    Returns:
        As `publish_network`.
    """
    metadata = architecture.deployment()
    channels = architecture.stem.in_channels
    return export_onnx(network, architecture.resolution, path, channels, metadata)


def load_network(run: Run) -> Network:
    """The trained network that a run published, in eval mode.

    Raises:
        UserError: there is none yet, or its weights belong to another architecture.
    """
    outcome = run.outcome
    if not outcome.weights_path.exists():
        raise UserError(
            f"the run in {run.folder} has no trained network yet; go on with it by {run.going_on}"
        )
    network = Network(Architecture.load(outcome.architecture_path))
    try:
        network.load_state_dict(load_checkpoint(outcome.weights_path))
    except RuntimeError as error:
        raise UserError(
            f"the weights in {outcome.weights_path} belong to another architecture than "
            f"{outcome.architecture_path}; restore either of them"
        ) from error
    return network.eval()
