"""What must hold of the data before a verdict: the policy has not seen it, and it is of the same kind."""

from __future__ import annotations

from dataclasses import dataclass

from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

HELD_OUT = "held-out data"
LEAKAGE = "leakage and drift"


@dataclass(frozen=True)
class Gate:
    """One thing that was checked."""

    name: str
    passed: bool | None
    """False withholds the verdict; None: it was not run."""
    text: str
    """What was found, or why it was not run."""
    fix: str = ""

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        state = {True: "passed", False: "failed", None: "not run"}[self.passed]
        return {"name": self.name, "state": state, "text": self.text, "fix": self.fix}


def held_out_gate(policy: Policy, dataset: TrajectoryDataset) -> Gate:
    """Return whether a policy was trained on other data than that on which it is judged."""
    trained_on = policy.spec.dataset.get("fingerprint")
    if trained_on is None:
        return Gate(HELD_OUT, None, "not run: the policy does not say what it was trained on")
    if trained_on == dataset.fingerprint:
        return Gate(
            HELD_OUT,
            False,
            "the policy was trained on these very episodes, so that it looks better on them than it is",
            "judge on other episodes: rlt convert --split, or train with --dataset.validation_fraction 0.2",
        )
    return Gate(HELD_OUT, True, "the policy was trained on other data")


def leakage_gate() -> Gate:
    """Return that nothing was checked."""
    return Gate(
        LEAKAGE, None, "not run: whether training and test share entities or times, or a state holds the outcome"
    )
