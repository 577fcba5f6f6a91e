"""Judge a policy from Python: the checks of the data, then the verdict, as `rlt judge` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rl_transformer.conditions.interface import Target
from rl_transformer.critics.networks import FitOptions
from rl_transformer.evaluation.offline.action_kinds import Candidate
from rl_transformer.evaluation.offline.gates import Gate, held_out_gate, leakage_gates, split_gates
from rl_transformer.evaluation.offline.judge import judge_candidate
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset


def judge(
    policy: Policy,
    dataset: TrajectoryDataset,
    *,
    against: Policy | None = None,
    training: TrajectoryDataset | None = None,
    target_return: float | None = None,
    targets: Mapping[str, Target] | None = None,
    margin: float = 0.0,
    entity: Sequence[str] = (),
    propensity: str | None = None,
    accept: Sequence[str] = (),
    seed: int = 0,
) -> JsonObject:
    """Return whether logged episodes establish that a policy earns more or less than their behavior, or another policy.

    Args:
        policy: The policy to judge.
        dataset: Logged episodes that it was not trained on.
        against: Another policy; None: the behavior that produced the log.
        training: The episodes that the policies were trained on, to find what both parts share; None: this is not checked,
            and the result says so.
        target_return: Target return of the policies, in the unit of the rewards; None: the one that each suggests.
        targets: Targets of conditions other than the return, by name.
        margin: The smallest difference in return that matters.
        entity: Columns that identify the entity of an episode, such as a patient; intervals are over entities.
        propensity: Column with the probability, or density, of each logged action; None: the column propensity if there is
            one, otherwise an estimate.
        accept: Kinds of findings that withhold no verdict.
        seed: Seed of the folds and networks.

    Returns:
        JSON-ready fields: `verdict` ("better", "worse" or "not established"), `reasons`, `difference`, `estimates`, `gates`
        and so on. `as_text` and `as_html` of `rl_transformer.evaluation.offline.page` show them.

    Raises:
        RLTransformerError: Too few episodes, or data of a kind that cannot be judged.
    """
    others = [] if against is None else [Candidate(against, target_return, targets or {}, "other policy")]
    candidate = Candidate(policy, target_return, targets or {})
    gates: list[Gate] = [held_out_gate(each.policy, dataset) for each in (candidate, *others)]
    gates += leakage_gates(dataset, accept)
    gates += split_gates(training, dataset, entity, accept)
    result = judge_candidate(
        candidate,
        dataset,
        against=others[0] if others else None,
        gates=list(dict.fromkeys(gates)),
        margin=margin,
        entity=entity,
        propensity=propensity,
        options=FitOptions(seed=seed),
    )
    return {"run": candidate.name, "data": dataset.location or "data in memory", **result}
