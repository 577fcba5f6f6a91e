"""Declare the section of options that define the return, as `config.sections` declares the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rl_transformer.config.base import Problem, Section, option

KINDS_OF_RETURN = (
    "write episode, next:N (N of 1 or more) or discounted:G (G between 0 and 1), such as next:20 or discounted:0.95"
)


@dataclass(frozen=True)
class ReturnKind:
    """Says which rewards a return counts; without a number of steps and a discount, all up to the episode's end."""

    steps: int | None = None
    """The next N rewards; None: all."""
    discount: float = 1.0
    """Weight of each reward relative to the one before it."""


def parse_return_kind(text: str) -> ReturnKind | None:
    """Return the kind that ``returns.kind`` names, or None for another text."""
    name, _, value = str(text).partition(":")
    if text == "episode":
        return ReturnKind()
    if name == "next" and re.fullmatch(r"[1-9][0-9]{0,8}", value):
        return ReturnKind(steps=int(value))
    # 0 would leave nothing of the next return-to-go, and 1 is the kind episode.
    if name == "discounted" and re.fullmatch(r"0\.[0-9]{1,12}", value) and float(value) > 0:
        return ReturnKind(discount=float(value))
    return None


@dataclass(kw_only=True)
class ReturnConfig(Section):
    """Define the return. The policy stores the definition and uses it while acting, too."""

    kind: str = option(
        "episode",
        "episode: rewards to the end of the episode; next:N: the next N rewards; discounted:G: each step ahead counts G "
        "times the one before.",
        common=True,
    )
    # The published scales are powers of ten of this size: 1000 for Hopper, HalfCheetah and Walker2d.
    scale: float | None = option(
        None,
        "Returns are divided by this; null: the power of ten at or below the data's largest return.",
        above=0,
        common=True,
    )
    update: Literal["subtract", "keep"] = option(
        "subtract",
        "subtract: the return-to-go falls by each reward; keep: it stays the target, as in training with delayed reward.",
    )
    reward_clip: float | None = option(None, "Clip rewards to [-c, c], in the data and while acting.", above=0)
    label: Literal["realized", "expected"] = option(
        "realized",
        "Label a step with the return that followed, or with the one that a return model expects after its action.",
    )
    # Two is the least that keeps a model from labelling what it learned from; each more is another model to train.
    folds: int = option(
        2,
        "With label expected: number of folds of the episodes, each labelled by a model trained on the other folds; 1: one model labels all.",
        at_least=1,
    )
    predict: bool = option(
        False,
        "Train a return model with the policy and store it; implied by label expected and by policy.target generated.",
    )
    # Our choice: a bin is then one percent of the range of returns.
    bins: int = option(101, "Number of return values over which the return model predicts a distribution.", at_least=2)

    def problems(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for a kind that does not exist, and for an update that changes nothing."""
        kind = parse_return_kind(self.kind)
        if kind is None:
            yield "kind", f"{self.kind!r} is not a kind of return", KINDS_OF_RETURN
        elif kind.steps is not None and self.update != "subtract":
            yield "update", "has no effect: the target of next:N is kept at every step", "leave it subtract"
