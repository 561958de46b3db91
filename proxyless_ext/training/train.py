"""Training of one network, from fresh or inherited weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .. import ranks
from ..config import Config
from ..data import Pictures
from ..nn import set_drop_rates, synchronise
from ..runs import TrainEpoch
from ..runtime import Runtime
from .ema import averaged
from .evaluation import evaluate
from .meter import Meter
from .mixing import Mixing
from .phase import Batch
from .weight_phase import WeightPhase


class Train(WeightPhase):
    """Trains a network on all training pictures and validates it after every epoch.

    The published retraining, with an exponential moving average of the weights beside it, which is
    what is validated and kept. Branches are dropped and pictures mixed as `config.train` says.

    Args:
        network: trained in place.
        config: `config.train`, and the seed.
        runtime: where the network is.
        data: training and validation pictures.
        name: of the phase; networks trained in one run need different ones.
    """

    section = "train"

    def __init__(
        self,
        network: nn.Module,
        config: Config,
        runtime: Runtime,
        data: Pictures,
        name: str = "train",
    ) -> None:
        super().__init__(
            name,
            network,
            network.parameters(),
            data.train,
            config.train,
            config,
            runtime,
            decay_norms=False,
        )
        self.data = data
        self.mixing = Mixing(config.train, config.seed, len(data.classes))
        set_drop_rates(network, config.train.drop_path)
        self.average = averaged(network, config.train.ema_decay)
        if runtime.sync_batch_norm:  # The average, which is judged, needs none.
            synchronise(network)

    @property
    def result(self) -> nn.Module:
        """The trained network: the average of its weights."""
        module: nn.Module = self.average.module
        return module

    def mix(self, step: int, pictures: Tensor, labels: Tensor) -> Batch:
        return self.mixing(step, pictures, labels)

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        super().step(step, pictures, labels, meter)
        self.average.update_parameters(self.model)

    def end_epoch(self, epoch: int, meter: Meter) -> tuple[TrainEpoch]:
        ranks.take_from_first(self.result.buffers())
        scores = evaluate(
            self.result,
            self.data.val,
            self.schedule.batch_size,
            self.runtime,
            self.config.data.workers,
        )
        measures = self.measures(epoch, meter)
        return (TrainEpoch(**measures, val_loss=scores.loss, val_accuracy=scores.accuracy),)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.average.load_state_dict(state["average"])
