"""A run that trains one given network."""

from __future__ import annotations

from dataclasses import dataclass

from .. import ranks
from ..config import Config
from ..data import Pictures, load_pictures
from ..errors import UserError
from ..runs import Result, Run
from ..runtime import Runtime
from ..spaces import Architecture
from .batch_norm import check_batch
from .continuity import check_continuity, keep_settings
from .networks import (
    for_data,
    network_size,
    publish_network,
    seeded_network,
    train_network,
    validate_network,
)


@dataclass(frozen=True)
class TrainingTask:
    """What the training of one network is given.

    Attributes:
        architecture: of the network, with the classes of the pictures.
        data: the pictures.
        runtime: where it is trained.
    """

    architecture: Architecture
    data: Pictures
    runtime: Runtime

    @classmethod
    def load(cls, config: Config, architecture: Architecture, run: Run | None) -> TrainingTask:
        """Load all of it, and find what is impossible before anything is written.

        Args:
            config: of the run.
            architecture: what to train.
            run: to go on with, if there is one.

        Raises:
            UserError: `config.train.weights` asks for a supernet's weights, the pictures or the
                device cannot be used, or pictures or settings are not those of the run.
        """
        if config.train.weights != "scratch":
            raise UserError("train.weights 'inherit' needs a search; set it to 'scratch'")
        runtime = Runtime.set_up(config.runtime)
        data = load_pictures(
            config.data, architecture.resolution, config.seed, distortions=config.train
        )
        if run:
            check_continuity(run, config, data)
        batch_size, parts = config.train.batch_size, config.train.parts
        check_batch(architecture, "train.batch_size", batch_size, len(data.train), runtime, parts)
        return cls(for_data(architecture, config, data), data, runtime)


def run_training(run: Run, config: Config, task: TrainingTask) -> Result:
    """A run that trains one given network from fresh weights.

    Raises:
        UserError: the training diverged, or the run was stopped.
    """
    architecture, data, runtime = task.architecture, task.data, task.runtime
    ranks.of_first(keep_settings, run, config)
    ranks.of_first(architecture.save, run.outcome.architecture_path)
    fresh = seeded_network(architecture, config, runtime, "train")
    network, seconds = train_network(fresh, run, config, runtime, data)
    result = Result(
        **validate_network(network, config, runtime, data.val).as_dict(),
        **network_size(network, architecture.resolution),
        onnx_max_difference=ranks.of_first(publish_network, network, architecture, run.outcome),
        seed=config.seed,
        seconds={"train": seconds},
        classes=data.classes,
        pictures=len(data.val),
    )
    ranks.of_first(run.outcome.write_result, result)
    return result
