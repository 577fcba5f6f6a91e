"""Check the targets that a caller gives to a policy, and find those that are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rl_transformer.conditions import Condition
from rl_transformer.conditions.interface import Target, target_text
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.advice import BEYOND
from rl_transformer.policy.spec import PolicySpec


def takes_no_target(spec: PolicySpec, value: object) -> RLTransformerError:
    """Return the error for a target return that the policy would ignore."""
    reason = "this policy generates its own" if spec.target == "generated" else "behavior cloning has none"
    shown = f"{value:g}" if isinstance(value, int | float | np.number) else repr(value)
    return RLTransformerError(
        f"this policy takes no target return, and {shown} was given",
        where="target_return",
        fix=f"leave the target out: {reason}",
    )


def check_target_names(spec: PolicySpec, target_return: float | None, given: Mapping[str, Target]) -> None:
    """Raise an error for a target that this policy would ignore."""
    names = [condition.name for condition in spec.conditions]
    if target_return is not None and not spec.takes_target:
        raise takes_no_target(spec, target_return)
    for name in given:
        if name not in names or name == "return_to_go":
            fix = "pass it as target_return" if name == "return_to_go" else f"choose among {names}"
            raise RLTransformerError(
                f"{name!r} is not a condition of this policy other than the return", where="targets", fix=fix
            )


def default_target(spec: PolicySpec, condition: Condition) -> float:
    """Return the default target of a condition, which only a return has."""
    if condition.name != "return_to_go":
        known = spec.target_ranges.get(condition.name)
        seen = "" if known is None else f"; training episodes had {known[0]:g} to {known[1]:g}"
        raise RLTransformerError(
            f"no target for {condition.name} is given{seen}",
            where="targets",
            fix=f"pass targets={{{condition.name!r}: VALUE}}, or --target {condition.name}=VALUE",
        )
    if spec.target == "generated":
        return 0.0  # replaced by the return model before the first action
    usual = usual_target(spec)
    if usual is None:
        raise RLTransformerError(
            "no target return is given and the policy suggests none",
            where="target_return",
            fix="pass target_return=NUMBER, or --target-return NUMBER",
        )
    return usual


def usual_target(spec: PolicySpec) -> float | None:
    """Return the target return to aim for if nothing is known of the start; None if the policy takes none.

    It is the advised one; a policy of a format that did not store advice suggests the largest return of its data.
    """
    if not spec.takes_target:
        return None
    advice = spec.advice
    if advice is None or spec.return_quantiles is None:
        return max(spec.suggested_targets, default=None)
    return spec.return_quantiles[advice.level] if advice.fixed is None else advice.fixed


def warning_of_targets(spec: PolicySpec, given: Sequence[tuple[str, Target]]) -> str | None:
    """Return a note about targets outside the range of the training episodes; None if all lie inside.

    Args:
        spec: The policy's spec.
        given: Names of conditions with their targets.
    """
    notes = []
    for name in dict(given):
        if name not in spec.target_ranges:
            continue
        low, high = spec.target_ranges[name]
        outside = [
            target_text(target)
            for key, target in given
            if key == name and not all(low <= number <= high for number in np.atleast_1d(target))
        ]
        what = "return" if name == "return_to_go" else name
        if outside:
            notes.append(
                f"note: target {what} {', '.join(outside)} is outside the training data's [{low:g}, {high:g}] ({BEYOND}); "
                "expect extrapolation, and compare target and achieved values"
            )
    return "\n".join(notes) or None
