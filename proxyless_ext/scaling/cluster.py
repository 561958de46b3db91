"""What a search takes on a number of devices that share every batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..config import Config
from ..errors import UserError
from ..training.gradients import BUCKET_BYTES
from .step_costs import StepCosts
from .work import Kind, PictureCounts, Work, list_work, with_batches

BACKWARD = 2 / 3
"""The part of a step that trains weights during which gradients can be on their way."""


@dataclass(frozen=True)
class Cluster:
    """Devices that are alike and joined in a ring.

    Attributes:
        bandwidth: bytes a second that a device sends while it receives as many.
        latency: seconds until a message begins to arrive.
        loading: pictures a second that are read for each device, while it computes.
        overlap: the part of a step that trains weights during which gradients are on their way:
            none where the cores that compute carry them, too.
    """

    bandwidth: float = 1.25e9
    latency: float = 5e-5
    loading: float = math.inf
    overlap: float = BACKWARD

    def reduce_seconds(self, num_bytes: float, devices: int) -> float:
        """To add up so many bytes over devices, in a ring."""
        if devices == 1 or not num_bytes:
            return 0.0
        messages = math.ceil(num_bytes / BUCKET_BYTES) * math.ceil(math.log2(devices))
        return self.wire_bytes(num_bytes, devices) / self.bandwidth + messages * self.latency

    @staticmethod
    def wire_bytes(num_bytes: float, devices: int) -> float:
        """That every device sends to add up so many bytes: all but its own part, twice."""
        return 2 * (devices - 1) / devices * num_bytes


@dataclass(frozen=True)
class Step:
    """Seconds of a step.

    Attributes:
        compute: of a device for its part of the batch.
        loading: of reading that part, beside.
        waiting: for other devices.
    """

    compute: float
    loading: float
    waiting: float

    @property
    def total(self) -> float:
        return max(self.compute, self.loading) + self.waiting


@dataclass(frozen=True)
class Estimate:
    """What a search takes on so many devices.

    Attributes:
        devices: their number.
        steps: of the last part of each kind.
        seconds: of every part.
        wire_bytes: that a device sends in a weight step.
        memory: bytes of a device in the largest weight step.
    """

    devices: int
    steps: dict[Kind, Step]
    seconds: dict[str, float]
    wire_bytes: float
    memory: float

    @property
    def total(self) -> float:
        """Seconds of the whole search."""
        return sum(self.seconds.values())

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.devices * self.total / 3600


def estimate(
    config: Config,
    pictures: PictureCounts,
    costs: StepCosts,
    cluster: Cluster,
    devices: int,
    batch_per_device: int | None = None,
) -> Estimate:
    """What a search takes on so many devices.

    Args:
        config: of the search.
        pictures: that it has.
        costs: of steps on one device.
        cluster: what joins the devices.
        devices: their number.
        batch_per_device: pictures of a step on each device, instead of batch sizes of all together.

    Raises:
        UserError: a batch has fewer pictures than there are devices, these cannot divide the paths
            of a step, or the search would have no gate steps.
    """
    if batch_per_device:
        config = with_batches(config, batch_per_device * devices)
    for section in (config.warmup, config.search):
        section.paths_of_rank(devices)
    steps: dict[Kind, Step] = {}
    seconds: dict[str, float] = {}
    after = replace(cluster, overlap=0.0)  # Gradients of several paths are sent after backward.
    for each in list_work(config, pictures):
        joined = after if config.most_paths > 1 and each.kind == "weight" else cluster
        steps[each.kind] = step = _step(each, costs, joined, devices)
        seconds[each.part] = each.steps * step.total
    largest = min(max(config.warmup.batch_size, config.search.batch_size), pictures.weights)
    return Estimate(
        devices=devices,
        steps=steps,
        seconds=seconds,
        wire_bytes=cluster.wire_bytes(costs.reduced["weight"], devices),
        memory=costs.memory.at(math.ceil(largest / devices)),
    )


def _step(work: Work, costs: StepCosts, cluster: Cluster, devices: int) -> Step:
    if devices > work.batch_size:
        raise UserError(
            f"{devices} devices cannot share a batch of {work.batch_size} pictures ({work.part}); "
            "raise batch sizes, or give --batch-per-device"
        )
    own = math.ceil(work.batch_size / devices)
    compute = costs.seconds[work.kind].at(own)
    num_bytes = costs.reduced[work.kind]
    waiting = cluster.reduce_seconds(num_bytes, devices)
    if work.kind in ("weight", "train"):
        last = cluster.reduce_seconds(min(num_bytes, BUCKET_BYTES), devices)
        waiting = max(waiting - cluster.overlap * compute, last)
    return Step(compute, own / cluster.loading, waiting)
