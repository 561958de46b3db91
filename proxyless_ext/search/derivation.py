"""From the supernet to the network that is handed over: short list, finalists, winner."""

from __future__ import annotations

import math

from ..data import batches_per_epoch
from ..nn import SuperNet
from ..runs import (
    Derivation,
    Finalist,
    FinalistFigures,
    FinalistsEpoch,
    ShortListEpoch,
    read_metrics,
)
from ..seeding import derive_seed
from .candidates import Band, Choices
from .derive import derive_choices
from .finalists import Finalists
from .short_list import ShortList
from .stages import Stages


def choose(stages: Stages, supernet: SuperNet) -> Choices:
    """Choose the network and write its architecture, and how it was chosen.

    Args:
        stages: of the run.
        supernet: after the search.
    """
    outcome = stages.run.outcome
    if stages.config.derive.networks:
        choices = best_finalist(stages, supernet, short_list(stages, supernet))
        if not outcome.derivation_path.exists():
            outcome.write_derivation(_derivation(stages))
    else:
        choices = derive_choices(supernet, stages.objective)
    stages.architecture(choices, "derived").save(outcome.architecture_path)
    return choices


def short_list(stages: Stages, supernet: SuperNet) -> list[Choices]:
    """The finalists: the best networks of the band by what the supernet tells of them."""
    config, wanted = stages.config, stages.config.derive.networks
    band, scores = Band.of(stages.objective), stages.path_scores
    preferred = [
        network
        for opinion in (supernet.edges.log_probabilities(), scores.log_worths())
        for network in band.likeliest(opinion, math.ceil(wanted / 3))
    ]
    drawn = band.drawn(wanted, derive_seed(config.seed, "short list"))
    first = list(dict.fromkeys([*preferred, *drawn]))[:wanted]
    phase = ShortList(supernet, config, stages.runtime, stages.data, band, scores, first)
    stages.run_phase(phase)
    return [network.choices for network in phase.best_first[: config.derive.finalists]]


def best_finalist(stages: Stages, supernet: SuperNet, finalists: list[Choices]) -> Choices:
    """The finalist that is left when all others have dropped out."""
    if len(finalists) == 1:
        return finalists[0]
    networks = [(choices, stages.beginner(supernet, choices, "train")) for choices in finalists]
    phase = Finalists(networks, stages.config, stages.runtime, stages.data, stages.objective)
    stages.run_phase(phase)
    return phase.winner


def _derivation(stages: Stages) -> Derivation:
    """How the derived network was chosen, by the records."""
    records = read_metrics(stages.run.metrics_path)
    lists = [record.networks for record in records if isinstance(record, ShortListEpoch)]
    scored = {network.choices: network for networks in lists for network in networks}
    epochs = [record for record in records if isinstance(record, FinalistsEpoch)]
    # Of every finalist the last epoch it took part in; those that got farther come first.
    last: dict[Choices, tuple[int, Finalist]] = {}
    for record in reversed(epochs):
        for finalist in record.finalists:
            last.setdefault(finalist.choices, (record.step, finalist))
    train = stages.config.train
    steps = train.epochs * batches_per_epoch(len(stages.data.train), train.batch_size)
    return Derivation(
        scored=len(scored),
        finalists=tuple(
            FinalistFigures(
                **stages.costs(stages.fresh(choices, "train")).model_dump(exclude_none=True),
                choices=choices,
                predicted_ms=stages.objective.predicted_ms(choices),
                held_out_loss=scored[choices].loss,
                path_loss=scored[choices].path_loss,
                log_probability=scored[choices].log_probability,
                trained=step / steps,
                training_loss=finalist.loss,
            )
            for choices, (step, finalist) in last.items()
        ),
    )
