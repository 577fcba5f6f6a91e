"""Choose among several policies from logged episodes alone, with the regret that is to be expected of the choice.

All policies are estimated on the same episodes, so that their errors go together: an episode that makes one look good often
makes the others look good. Whole units (episodes or entities) are weighted anew at random, with all estimates at once, and the
values that result stand for what the true ones may be (the Bayesian bootstrap, Rubin 1981).

Shapes: C policies, E episodes, U units, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_transformer.critics.networks import FitOptions
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.differences import format_number
from rl_transformer.evaluation.offline.action_kinds import Candidate
from rl_transformer.evaluation.offline.estimators import ValueEstimate, logged_value
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.judge import describe_estimate, estimate_sides
from rl_transformer.evaluation.offline.verdict import Side, failed_conditions
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Float64, Int
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

_RESAMPLES = 2000
_MOST_WEIGHTS = 2_000_000  # that are held at once: 16 MB

RANKED = "ranked"
UNSUPPORTED = "without support"
WITHHELD = "withheld"
"""A check of the data failed, so no estimate of this policy can be believed."""
_STATES = (RANKED, UNSUPPORTED, WITHHELD)


@dataclass(frozen=True, eq=False)
class _Judged:
    """One policy, with any reasons against ranking it."""

    candidate: Candidate
    side: Side
    gates: list[Gate]
    """Results of the checks of the data."""
    weights: list[Gate]
    """Whether this policy has importance weights, and whether they are reliable."""

    @property
    def reasons(self) -> list[str]:
        """Return why it is not ranked; empty if it is."""
        return failed_conditions([self.side], [*self.gates, *self.weights])[0]

    @property
    def status(self) -> str:
        """Return one of `_STATES`."""
        if any(gate.passed is False for gate in self.gates):
            return WITHHELD
        return UNSUPPORTED if self.reasons else RANKED

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; fields that only ranked policies have are None."""
        return {
            "run": self.candidate.name,
            "policy": self.candidate.policy.content_hash,
            "status": self.status,
            "estimate": None,
            "fitted_q_evaluation": self.side.second.value,
            "expected_regret": None,
            "probability_best": None,
            "probability_above_behavior": None,
            "reasons": self.reasons,
        }


@dataclass(frozen=True)
class Regrets:
    """Expected regret of choosing each of several policies."""

    expected: Float64[np.ndarray, "C"]
    """How much less each earns than the best of them, averaged over the distribution of the true values."""
    is_best: Float64[np.ndarray, "C"]
    """Probability that each is the best of them; equally good ones share it."""


def select(
    candidates: Sequence[Candidate],
    dataset: TrajectoryDataset,
    *,
    gates: Mapping[str, Sequence[Gate]] | None = None,
    entity: Sequence[str] = (),
    propensity: str | None = None,
    options: FitOptions | None = None,
) -> JsonObject:
    """Return which policy to try first, and what is known of each; JSON-ready.

    Policies with enough support are ordered by the estimate on which a verdict would rest. If none has enough, all
    are ordered by fitted Q evaluation, and no regret is given.

    Args:
        candidates: Two or more policies, under names that differ.
        dataset: Logged episodes that none of them was trained on.
        gates: What was checked of the data beforehand, by the name of the policy that it concerns.
        entity: Columns that tell whom an episode is about; episodes of one are resampled together.
        propensity: Column with the probability of each logged action; None: the column propensity, if there is one.
        options: Sizes of the networks.

    Raises:
        RLTransformerError: Fewer than two policies, or data that cannot be judged.
    """
    _check_candidates(candidates)
    options = options or FitOptions()
    logged, judged = estimate_sides(candidates, dataset, entity=entity, propensity=propensity, options=options)
    found = [
        _Judged(each, side, list((gates or {}).get(each.name, ())), logged.actions.gates([each]))
        for each, (_, side, _) in zip(candidates, judged, strict=True)
    ]
    ranked = [one for one in found if one.status == RANKED]
    behavior = logged_value(judged[0][0])
    draws = resample_values([behavior, *(one.side.deciding for one in ranked)], logged.entities, seed=options.seed)
    # The behavior is no candidate: what it earns is known, and staying with it needs no trial.
    regrets = expected_regrets(draws[:, 1:])
    above = (draws[:, 1:] > draws[:, :1]).mean(0)
    rows = [one.to_dict() for one in found]
    for place, one in enumerate(ranked):
        rows[found.index(one)] |= {
            # Without support an interval means nothing, and somebody would quote it.
            "estimate": {"estimator": one.side.deciding.name, **describe_estimate(one.side.deciding, logged.entities)},
            "expected_regret": float(regrets.expected[place]),
            "probability_best": float(regrets.is_best[place]),
            "probability_above_behavior": float(above[place]),
        }
    rows.sort(key=_order)
    pick = None if rows[0]["status"] == WITHHELD else rows[0]
    return {
        "pick": None if pick is None else pick["run"],
        "expected_regret": None if pick is None else pick["expected_regret"],
        "unit": "episodes" if logged.entities is None else "entities",
        "regret_unit": "return per episode",
        "candidates": rows,
        "behavior": {**describe_estimate(behavior, logged.entities), "episodes": dataset.num_trajectories},
        "notes": _notes(rows),
    }


def _check_candidates(candidates: Sequence[Candidate]) -> None:
    if len(candidates) < 2:
        fix = "name two or more runs; rlt judge compares a single one with the behavior"
        raise RLTransformerError("there is nothing to choose from", where="rlt select", fix=fix)
    hashes = [candidate.policy.content_hash for candidate in candidates]
    twice = next((each.name for i, each in enumerate(candidates) if hashes[i] in hashes[:i]), None)
    if twice is not None:
        # Two copies would share the probability of being best, and look worse than they are.
        raise RLTransformerError("holds the same policy as another one", where=twice, fix="name each policy once")


def _order(row: JsonObject) -> tuple[int, float]:
    """Return the sorting key: what is ranked by its estimate, and the rest by fitted Q evaluation."""
    value = row["fitted_q_evaluation"] if row["estimate"] is None else row["estimate"]["value"]
    return _STATES.index(row["status"]), -value


def _notes(rows: Sequence[JsonObject]) -> list[str]:
    """Return what a reader must know before trying the pick."""
    pick = rows[0]
    if pick["status"] == WITHHELD:
        return ["no policy is picked: the failed checks of the data affect how every policy looks on it"]
    trial = "a live trial of all of them is worth more: rlt select RUNS --env-id ID --trials N"
    if pick["status"] == UNSUPPORTED:
        return [
            f"no policy has enough support for an expected regret; they are ordered by fitted Q evaluation, whose error is not known; {trial}"
        ]
    notes = []
    others = [row["run"] for row in rows if row["status"] != RANKED]
    if others:
        notes.append(f"the regret is among the policies with support; nothing is established about {', '.join(others)}")
    best = max((row for row in rows if row["status"] != WITHHELD), key=lambda row: row["fitted_q_evaluation"])
    if best["run"] != pick["run"]:
        notes.append(f"fitted Q evaluation would pick {best['run']}")
    return notes


def resample_values(
    estimates: Sequence[ValueEstimate],
    entities: Int[np.ndarray, "E"] | None,
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Float64[np.ndarray, "B C"]:
    """Return the values of several estimates with units weighted at random; all see the same weights in each resample.

    Args:
        estimates: Estimates over the same episodes.
        entities: Number of the entity of each episode; None: every episode is a unit of its own.
        resamples: B.
        seed: Seed of the resampling.
    """
    influences = np.stack([estimate.influences for estimate in estimates], axis=1)
    sums = influences
    if entities is not None:
        units = np.unique(entities, return_inverse=True)[1]
        sums = np.stack([np.bincount(units, column) for column in influences.T], axis=1)
    values = np.array([estimate.value for estimate in estimates])
    random = generator(Stream.POLICY_SELECTION, seed)
    size = len(sums)
    chunk = max(1, _MOST_WEIGHTS // size)
    moved = []
    for start in range(0, resamples, chunk):
        weights = random.standard_exponential((min(chunk, resamples - start), size))
        weights *= size / weights.sum(1, keepdims=True)
        moved.append(weights @ sums / len(influences))
    return values + np.concatenate(moved)


def expected_regrets(draws: Float64[np.ndarray, "B C"]) -> Regrets:
    """Return the expected regret of each policy, and the probability that it is best.

    Args:
        draws: Values that the policies may have, jointly; C may be 0.
    """
    if not draws.shape[1]:
        return Regrets(np.zeros(0), np.zeros(0))
    best = draws.max(1, keepdims=True)
    is_best = draws == best
    return Regrets((best - draws).mean(0), (is_best / is_best.sum(1, keepdims=True)).mean(0))


def selection_text(result: JsonObject) -> str:
    """Return the choice with its reasons for a terminal."""
    unit = f"{result['unit']} of the log"
    lines = []
    if result["pick"] is None:
        lines.append("TRY FIRST: none")
    elif result["expected_regret"] is None:
        lines.append(f"TRY FIRST: {result['pick']}, without an expected regret")
    else:
        lines.append(
            f"TRY FIRST: {result['pick']}; expected regret {format_number(result['expected_regret'])} of return per episode "
            f"(resampled {unit})"
        )
    width = max(len("candidate"), *(len(row["run"]) for row in result["candidates"]))
    lines.append(
        f"{'candidate':<{width}} {'estimate':>9} {'90 % interval':>20} {'regret':>8} {'best':>5} {'above behavior':>15}"
    )
    for row in result["candidates"]:
        estimate = row["estimate"]
        if estimate is None:
            lines.append(f"{row['run']:<{width}} {row['status']}: {'; '.join(row['reasons'])}")
            continue
        interval = estimate["interval"]
        shown = "-" if interval is None else f"[{format_number(interval[0])}, {format_number(interval[1])}]"
        lines.append(
            f"{row['run']:<{width}} {format_number(estimate['value']):>9} {shown:>20} {format_number(row['expected_regret']):>8} "
            f"{row['probability_best']:>5.0%} {row['probability_above_behavior']:>15.0%}"
        )
    behavior = result["behavior"]
    lines.append(f"behavior: {format_number(behavior['value'])} on average in {behavior['episodes']:,} episodes")
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])
