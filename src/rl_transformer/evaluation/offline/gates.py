"""What must hold of the data before a verdict: the policy has not seen it, and it is of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.leakage import LEAKAGE_KINDS, find_leakage
from rl_transformer.trajectories.splits import compare_splits, time_column

HELD_OUT = "held-out data"
LEAKAGE = "leakage"
SPLIT = "training and test"


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
    # The fingerprint is over the content, so that the same episodes in another format are recognized.
    trained_on = policy.spec.dataset.get("fingerprint")
    if trained_on is None:
        return Gate(HELD_OUT, None, "not run: the policy does not record what it was trained on")
    if trained_on == dataset.fingerprint:
        return Gate(
            HELD_OUT,
            False,
            "the policy was trained on these very episodes, so it looks better on them than it is",
            # The command finds the episodes that training held out; rlt.judge is given the episodes, and judges those.
            "judge on other episodes (rlt convert --split), or train with --dataset.validation_fraction 0.2, of which the command "
            "rlt judge takes the held-out episodes",
        )
    return Gate(HELD_OUT, True, "the policy was trained on other data")


def leakage_gates(dataset: TrajectoryDataset, accepted: Sequence[str]) -> list[Gate]:
    """Return what observations hold that they should precede: a policy, or a critic, would read it from them.

    Args:
        dataset: The data to judge by.
        accepted: Kinds of findings that the user has looked at: they withhold nothing.
    """
    return _gates(LEAKAGE, find_leakage(dataset), LEAKAGE_KINDS, accepted, "no leakage into the observations was found")


def split_gates(
    training: TrajectoryDataset | None, dataset: TrajectoryDataset, entity: Sequence[str], accepted: Sequence[str]
) -> list[Gate]:
    """Return what the data to judge by shares with the training data, which withholds a verdict, and how they differ.

    Args:
        training: The training data; None: it could not be read.
        dataset: The data to judge by.
        entity: Columns that tell whom an episode is about.
        accepted: Kinds of findings that withhold nothing.
    """
    if training is None:
        text = "the training data is not available: shared episodes, entities and times, and a changed behavior, cannot be detected"
        return [Gate(SPLIT, None, text)]
    findings = compare_splits(training, dataset, entity=entity)
    # A behavior that changed is named only: the verdict is about the behavior of the data to judge by.
    withholding = tuple({finding.kind for finding in findings if finding.level == "error"})
    gates = _gates(SPLIT, findings, withholding, accepted, "nothing is shared with the training data")
    # A verdict must say what it did not look at; `compare_splits` is silent about columns that nobody named.
    unknown = [] if entity else ["entities (name their columns with --entity)"]
    unknown += [] if time_column(training, dataset) else ["times (convert the table with --keep TIME)"]
    if unknown:
        gates.append(Gate(SPLIT, None, f"not checked whether the two share {' or '.join(unknown)}"))
    return gates


def _gates(
    name: str, findings: Sequence[Finding], withholding: Sequence[str], accepted: Sequence[str], passed: str
) -> list[Gate]:
    """Return one gate per finding; if none of them withholds a verdict, also one that says so."""
    gates = []
    for finding in findings:
        text = f"{finding.kind}: {finding.field} {finding.problem}"
        if finding.kind in withholding and finding.kind not in accepted:
            fix = f"{finding.fix}; if it is intended, repeat with --accept '{finding.kind}'"
            gates.append(Gate(name, False, text, fix))
        elif finding.level == "info":
            gates.append(Gate(name, None, text))
        else:
            gates.append(
                Gate(
                    name,
                    True,
                    f"{text} ({'accepted' if finding.kind in accepted else 'does not withhold the verdict'})",
                )
            )
    # What could not be checked is said aloud, beside what was: silence would read as success.
    return gates if any(gate.passed is not None for gate in gates) else [Gate(name, True, passed), *gates]
