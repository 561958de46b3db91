"""What a search is given: its pictures, its space and perhaps its latencies."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from ..data import Pictures, load_pictures
from ..errors import UserError
from ..latency import LatencyTable
from ..runs import Run
from ..spaces import Space
from ..training.setup import set_up_torch
from .objective import Objective
from .phases import gate_schedule


@dataclass(frozen=True)
class Task:
    """What a search is given.

    Attributes:
        space: the space to search, with the classes of the pictures.
        data: the pictures.
        table: latencies of the space's layers, unless they are yet to be measured.
    """

    space: Space
    data: Pictures
    table: LatencyTable | None

    @classmethod
    def load(cls, config: Config, run: Run) -> Task:
        """Load all of it, and find what is impossible before anything is written.

        Args:
            config: of the run.
            run: a run to go on with has its space and perhaps its latency table already.

        Raises:
            UserError: pictures, space, table, target or schedule are impossible, or the space is
                not the one that the run began with.
        """
        set_up_torch(config)
        space = config.space.build()
        data = load_pictures(config.data, space.resolution, config.seed)
        space = space.with_classes(len(data.classes))
        source = config.latency.table
        if run.has_begun:
            _check_same(space, run)
            source = run.latency_path if run.latency_path.exists() else source
        table = LatencyTable.load(source) if source else None
        if table:
            Objective.build(space, table, config.latency)
        gate_schedule(config, len(data.train_weights))
        return cls(space, data, table)


def _check_same(space: Space, run: Run) -> None:
    if run.space_path.exists() and Space.load(run.space_path) != space:
        raise UserError(
            f"the space or the number of classes is no longer that of {run.space_path}, with which "
            "the run began; restore what was changed, or start a new run"
        )
