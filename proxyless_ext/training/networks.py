"""Networks of a run: made, trained, published as files, and loaded again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import Config
from ..data import Pictures, load_pictures
from ..errors import UserError
from ..export import export_onnx
from ..nn import Network, count_macs, count_parameters
from ..runs import Run, load_checkpoint, save_checkpoint
from ..seeding import derive_seed
from ..spaces import Architecture
from .evaluation import Accuracy, evaluate
from .phase import run_phase
from .setup import set_up_torch
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


def fresh_network(architecture: Architecture, config: Config, name: str) -> Network:
    """A network with the initial weights that the run's seed and `name` give."""
    torch.manual_seed(derive_seed(config.seed, name, "weights"))
    return Network(architecture).to(memory_format=torch.channels_last).to(config.device)


def train_network(
    network: nn.Module, run: Run, config: Config, data: Pictures, name: str = "train"
) -> tuple[nn.Module, float]:
    """Train `network` as phase `name`: the averaged network, in eval mode, and the seconds."""
    phase = Train(network, config, data, name)
    seconds = run_phase(phase, run, config.seed, config.checkpoint_seconds)
    return phase.result, seconds


def validate_network(network: nn.Module, config: Config, data: Pictures) -> Accuracy:
    """Accuracy on the validation pictures."""
    return evaluate(network, data.val, config.train.batch_size, config.device, config.data.workers)


def network_size(network: nn.Module, resolution: int) -> dict[str, int]:
    """``parameters``, and ``macs`` for one picture."""
    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network, resolution),
    }


def publish_network(network: nn.Module, architecture: Architecture, run: Run) -> float:
    """Write a trained network's architecture, weights and ONNX file.

    Returns:
        The largest difference between PyTorch and ONNX Runtime in the logits of random pictures.
    """
    architecture.save(run.architecture_path)
    save_checkpoint(run.weights_path, network.state_dict())
    return export_onnx(network, architecture.resolution, run.onnx_path)


def load_network(run: Run) -> Network:
    """The trained network that a run published, in eval mode.

    Raises:
        UserError: there is none yet, or its weights belong to another architecture.
    """
    if not run.weights_path.exists():
        raise UserError(
            f"the run in {run.folder} has no trained network yet; go on with it by --resume"
        )
    network = Network(Architecture.load(run.architecture_path))
    try:
        network.load_state_dict(load_checkpoint(run.weights_path))
    except RuntimeError as error:
        raise UserError(
            f"the weights in {run.weights_path} belong to another architecture than "
            f"{run.architecture_path}; restore either of them"
        ) from error
    return network.eval()


def prepare_training(config: Config, architecture: Architecture) -> tuple[Architecture, Pictures]:
    """A network, given the classes of its pictures, and these: all before anything is written.

    Raises:
        UserError: `config.train.weights` asks for a supernet's weights, or the pictures or the
            device cannot be used.
    """
    if config.train.weights != "scratch":
        raise UserError("train.weights 'inherit' needs a search; set it to 'scratch'")
    set_up_torch(config)
    data = load_pictures(config.data, architecture.resolution, config.seed)
    return for_data(architecture, config, data), data


def run_training(
    run: Run, config: Config, architecture: Architecture, data: Pictures
) -> dict[str, Any]:
    """A run that trains one given network from fresh weights: what result.json holds.

    Raises:
        UserError: the training diverged, or the run was stopped.
    """
    architecture.save(run.architecture_path)
    network, seconds = train_network(
        fresh_network(architecture, config, "train"), run, config, data
    )
    result = {
        **validate_network(network, config, data).as_dict(),
        **network_size(network, architecture.resolution),
        "onnx_max_difference": publish_network(network, architecture, run),
        "seed": config.seed,
        "seconds": {"train": seconds},
        "classes": list(data.classes),
    }
    run.write_result(result)
    return result
