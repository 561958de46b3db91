"""What a run writes down about itself, as types that its writers and its readers share.

A run may be going on or have been stopped, so whole files may be missing; in those that are there,
figures that the run has not come to are None. Accuracies are fractions, and costs have their unit
beside them.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Written(BaseModel):
    """Base of all records. Keys that a later version may have written are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Epoch(_Written):
    """An epoch of a phase: means over the samples of its weight steps.

    Attributes:
        phase: its name.
        step: weight steps of the phase so far.
        epoch: its number, from 0.
        loss: the training loss, label smoothing included.
        accuracy: of the training batches.
        lr: the rate of its last step.
        reduced_bytes: that a weight step sent to the other ranks; None where there were none.
        time: when the record was written, in seconds since 1970.
    """

    phase: str
    step: int
    epoch: int
    loss: float | None = None
    accuracy: float | None = None
    lr: float | None = None
    reduced_bytes: float | None = None
    time: float | None = None


class SearchEpoch(Epoch):
    """An epoch of a search, gate steps included.

    Attributes:
        gate_loss, gate_accuracy: of the gate steps; None before the first one.
        expected: cost over all paths.
        derived: cost of the most probable network.
        target: to be held, if there is one.
        unit: of these costs.
        trade_off: how much they weigh.
        entropy: mean entropy of an edge, in nats.
        probabilities: of the candidates of every edge.
    """

    gate_loss: float | None = None
    gate_accuracy: float | None = None
    expected: float
    derived: float
    target: float | None = None
    unit: str = "ms"
    trade_off: float
    entropy: float
    probabilities: tuple[tuple[float, ...], ...]


class ScoredNetwork(_Written):
    """A network of the short list.

    Attributes:
        choices: the candidate at every edge, as an index.
        loss, accuracy: on held-out training pictures, with the supernet's weights.
        path_loss: what the weight steps of the search tell of it.
        log_probability: by the alphas at the end of the search.
        predicted: by the run's table.
    """

    choices: tuple[int, ...]
    loss: float
    accuracy: float
    path_loss: float
    log_probability: float
    predicted: float


class ShortListEpoch(Epoch):
    """A generation of the short list."""

    networks: tuple[ScoredNetwork, ...]


class Finalist(_Written):
    """A finalist: means over its round so far.

    Attributes:
        choices: the candidate at every edge, as an index.
        loss, accuracy: of the training batches.
    """

    choices: tuple[int, ...]
    loss: float
    accuracy: float


class FinalistsEpoch(Epoch):
    """The finalists that are left, as long as the first round took, the best first."""

    finalists: tuple[Finalist, ...]


class TrainEpoch(Epoch):
    """An epoch of the training of one network, with its validation."""

    val_loss: float | None = None
    val_accuracy: float | None = None


class Figures(_Written):
    """Figures of one network.

    Attributes:
        predicted: what it costs by the run's table.
        measured: the same on the machine of the table; None if the run was elsewhere.
        unit: of both.
        choices: the candidate at every edge, as an index.
    """

    accuracy: float | None = None
    top5: float | None = None
    loss: float | None = None
    parameters: int | None = None
    macs: int | None = None
    predicted: float | None = None
    measured: float | None = None
    unit: str = "ms"
    choices: tuple[int, ...] | None = None


class FinalistFigures(Figures):
    """All that is known of a finalist when the last one is left.

    Attributes:
        held_out_loss: on held-out training pictures, with the supernet's weights.
        path_loss: what the weight steps of the search tell of it.
        log_probability: by the alphas.
        trained: the part of a training that it got.
        training_loss: in its last round.
    """

    held_out_loss: float
    path_loss: float
    log_probability: float
    trained: float
    training_loss: float


class Derivation(_Written):
    """How the derived network was chosen.

    Attributes:
        scored: how many networks the short list scored.
        finalists: the best first; none where the most probable network was taken.
    """

    scored: int = 0
    finalists: tuple[FinalistFigures, ...] = ()


class DeviceCosts(_Written):
    """What a network costs on a device.

    Attributes:
        predicted: by the device's table.
        measured: on the device; None if the run was elsewhere.
        unit: of both.
    """

    predicted: float | None = None
    measured: float | None = None
    unit: str = "ms"


class LimitFigures(_Written):
    """A limit, and what the network costs by it.

    Attributes:
        name: of what is limited.
        most: that a network may cost.
        predicted: what it costs.
        unit: of both.
    """

    name: str
    most: float
    predicted: float
    unit: str


class Result(Figures):
    """What came out of a run.

    Attributes:
        target: that the search held.
        limits: that the network keeps beside.
        devices: what the network costs on each device of a run for several networks.
        seed: of the run.
        seconds: by the kind of the phase, over all sittings; of a phase that several networks
            share, this one's part. What the network was trained as a finalist counts as training.
        onnx_max_difference: between the logits of PyTorch and ONNX Runtime.
        classes: names.
        pictures: that the accuracy is of.
    """

    target: float | None = None
    limits: tuple[LimitFigures, ...] = ()
    devices: dict[str, DeviceCosts] = Field(default_factory=dict)
    seed: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    onnx_max_difference: float | None = None
    classes: tuple[str, ...] = ()
    pictures: int | None = None


class Competitor(Figures):
    """A network to compare with: a random one of the space, or a yardstick."""

    name: str


class Comparison(_Written):
    """The networks that the derived one was compared with.

    Attributes:
        random: of its latency, trained alike.
        short_list: the best others of the short list, trained alike.
        yardsticks: published networks, measured only.
    """

    random: tuple[Competitor, ...] = ()
    short_list: tuple[Competitor, ...] = ()
    yardsticks: tuple[Competitor, ...] = ()


class Beginning(_Written):
    """What a run began with, and goes on with only as long as it holds.

    Attributes:
        pictures: which they were, as `data.Inventory` has it.
        settings: of the whole configuration, as they were last used.
        ended: whether all that these settings ask for is done.
    """

    pictures: dict[str, Any]
    settings: dict[str, Any]
    ended: bool = False


class Position(_Written):
    """Where a run stands within a phase.

    Attributes:
        label: the phase's name.
        done, total: weight steps.
        text: what the steps say of themselves, such as their loss.
        pictures_per_second: lately.
        seconds_left: of the phase, at that pace.
        time: in seconds since 1970.
    """

    label: str
    done: int
    total: int
    text: str
    pictures_per_second: float | None
    seconds_left: float | None
    time: float


def epoch_record(fields: dict[str, Any]) -> Epoch:
    """The record in a line of ``metrics.jsonl``, of the type of its phase.

    Raises:
        ValidationError: it is none.
    """
    kinds: dict[str, type[Epoch]] = {
        "warmup": Epoch,
        "search": SearchEpoch,
        "shortlist": ShortListEpoch,
        "finalists": FinalistsEpoch,
    }
    return kinds.get(phase_kind(str(fields.get("phase"))), TrainEpoch).model_validate(fields)


def network_name(device: str, target: str) -> str:
    """What a network is called that is searched for a device and a target: ``phone-40%``."""
    return f"{device}-{''.join(target.split())}"


def size_name(width_mult: float, resolution: int) -> str:
    """What one of several sizes is called, by its width and pictures: ``w0.75-r128``."""
    return f"w{width_mult:g}-r{resolution}"


def phase_name(kind: str, network: str) -> str:
    """What a phase is called that is about one network of several, or about the only one.

    Args:
        kind: such as ``train``.
        network: its name; empty where it is the only one.
    """
    return f"{kind}@{network}" if network else kind


def phase_kind(name: str) -> str:
    """The kind of a phase by its name."""
    return name.partition("@")[0]
