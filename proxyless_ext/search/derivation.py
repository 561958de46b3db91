"""From the supernet to the networks that are handed over: short list, finalists, winner."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import ranks
from ..data import batches_per_epoch
from ..nn import SuperNet
from ..runs import (
    Derivation,
    Finalist,
    FinalistFigures,
    FinalistsEpoch,
    read_metrics,
)
from ..seeding import derive_seed
from ..training.running import Begun
from .candidates import Band, Choices
from .derive import likeliest
from .finalists import Contest, Finalists, rounds
from .goals import Goal
from .short_list import Listing, ShortList, scored_networks
from .stages import Stages


def choose(stages: Stages, supernet: SuperNet) -> list[Choices]:
    """Choose a network for every goal, and write its architecture and how it was chosen.

    Args:
        stages: of the run.
        supernet: after the search.
    """
    if stages.config.derive.networks:
        chosen = best_finalists(stages, supernet, short_lists(stages, supernet))
        ranks.of_first(_write_derivations, stages)
    else:
        chosen = [likeliest(goal.log_probabilities, goal.objective) for goal in stages.goals]
    for goal, choices in zip(stages.goals, chosen, strict=True):
        architecture = stages.architecture(choices, goal.name or "derived")
        ranks.of_first(architecture.save, goal.outcome.architecture_path)
    return chosen


def short_lists(stages: Stages, supernet: SuperNet) -> list[list[Choices]]:
    """The finalists of every goal, by what the supernet tells of the networks of its band."""
    config, scores = stages.config, stages.path_scores
    wanted = config.derive.networks
    listings: list[Listing] = []
    for goal in stages.goals:
        band = Band.of(goal.objective)
        preferred = [
            network
            for opinion in (goal.log_probabilities, scores.log_worths())
            for network in band.likeliest(opinion, math.ceil(wanted / 3))
        ]
        shared = [each for other in listings for each in other.proposed if band.holds(each)]
        drawn = band.drawn(wanted, derive_seed(config.seed, "short list"))
        first = list(dict.fromkeys([*preferred, *shared, *drawn]))[:wanted]
        listings.append(Listing(goal.phase("shortlist"), band, goal.log_probabilities, first))
    stages.run_phase(ShortList(supernet, config, stages.runtime, stages.data, scores, listings))
    orders = [[network.choices for network in listing.best_first] for listing in listings]
    return share_finalists(orders, config.derive.finalists)


def share_finalists(orders: Sequence[Sequence[Choices]], wanted: int) -> list[list[Choices]]:
    """The finalists of every goal: the best of its own networks, and after these its guests.

    Guests are other goals' finalists that happen to lie in its band, which train anyway. The more
    of them earlier goals bring, the fewer finalists of its own a goal has, but at least half.

    Args:
        orders: for every goal the networks of its band, the best first.
        wanted: how many finalists a goal has of its own if it is alone.
    """
    half = math.ceil(wanted / 2)
    everyone: dict[Choices, None] = {}
    best: list[Sequence[Choices]] = []
    for order in orders:
        guests = len(everyone.keys() & set(order[half:]))
        best.append(order[: max(half, wanted - guests)])
        everyone.update(dict.fromkeys(best[-1]))
    return [
        list(dict.fromkeys([*own, *(each for each in everyone if each in order)]))
        for own, order in zip(best, orders, strict=True)
    ]


def best_finalists(
    stages: Stages, supernet: SuperNet, finalists: Sequence[Sequence[Choices]]
) -> list[Choices]:
    """For every goal the finalist that is left when all others have dropped out.

    Args:
        stages: of the run.
        supernet: after the search.
        finalists: of every goal, its guests last: they cost nothing in the first round, in which
            they train anyway, and take part in later ones in place of others.
    """
    derive = stages.config.derive
    contests = []
    for goal, each in zip(stages.goals, finalists, strict=True):
        own = rounds(min(len(each), derive.finalists), derive.round)
        own[:1] = [first._replace(finalists=len(each)) for first in own[:1]]
        contests.append(Contest(goal.phase("finalists"), goal.objective, list(each), own))
    if any(contest.rounds for contest in contests):
        networks = {
            choices: stages.beginner(supernet, choices, "train")
            for contest in contests
            for choices in contest.left
        }
        phase = Finalists(networks, contests, stages.config, stages.runtime, stages.data)
        stages.run_phase(phase)
        step_seconds = stages.seconds[phase.name] / sum(phase.steps.values())
        stages.begun = {
            choices: Begun(steps, steps * step_seconds, training.state_dict())
            for choices, training in phase.trainings.items()
            if (steps := phase.steps[choices])
        }
        # That time is their trainings'.
        stages.seconds[phase.name] -= sum(each.seconds for each in stages.begun.values())
    return [contest.left[0] for contest in contests]


def _write_derivations(stages: Stages) -> None:
    for goal in stages.goals:
        if not goal.outcome.derivation_path.exists():
            goal.outcome.write_derivation(_derivation(stages, goal))


def _derivation(stages: Stages, goal: Goal) -> Derivation:
    """How the network of a goal was chosen, by the records."""
    records = read_metrics(stages.run.metrics_path)
    scored = {network.choices: network for network in scored_networks(records, goal)}
    epochs = [
        record
        for record in records
        if isinstance(record, FinalistsEpoch) and record.phase == goal.phase("finalists")
    ]
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
                **stages.costs(goal.device, stages.fresh(choices, "train")).model_dump(
                    exclude_none=True
                ),
                choices=choices,
                predicted=goal.objective.predicted(choices),
                held_out_loss=scored[choices].loss,
                path_loss=scored[choices].path_loss,
                log_probability=scored[choices].log_probability,
                trained=step / steps,
                training_loss=finalist.loss,
            )
            for choices, (step, finalist) in last.items()
        ),
    )
