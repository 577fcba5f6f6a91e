"""Declare the section of options for evaluations while training, as `config.sections` declares the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rl_transformer.config.base import Problem, Section, option


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """Evaluate the policy while it is trained, if an environment is given."""

    env_id: str | None = option(None, "Gymnasium id of the environment.", not_empty=True, common=True)
    target_returns: list[float] = option([], "Target returns; []: the advised one (see rlt targets).", common=True)
    targets: dict[str, float] = option({}, "Targets of further conditions, for example {cost_to_go: 25}.")
    num_episodes: int = option(20, "Episodes per target.", above=0)
    every: int | None = option(
        None, "Updates between evaluations, in addition to one at the end; null: a tenth of train_steps.", above=0
    )
    # Far from 0, where seeds of recorded episodes usually begin, so that initial states of the data are not repeated.
    seed: int = option(1_000_000, "Seed of the first episode; later episodes count up.", at_least=0, below=2**63)
    max_live: int | None = option(
        None, "Environments open at the same time; null: one per episode, at most 256 per process.", above=0
    )
    max_steps: int | None = option(
        None,
        "Steps after which an episode is cut off; null: ten times the longest training episode, if the environment has "
        "no time limit of its own.",
        above=0,
    )
    step_timeout: float | None = option(
        None,
        "Time limit in seconds for one step or reset of the environment, where Python can interrupt it; null: no limit.",
        above=0,
    )
    env_kwargs: dict[str, str | bool | int | float | list | dict | None] = option(
        {}, "Further arguments of gymnasium.make, for example {max_episode_steps: 200}."
    )
    wrappers: list[str] = option(
        [], "Wrappers of gymnasium.wrappers to apply, the innermost one first, as NAME or NAME={...}."
    )

    on_error: Literal["continue", "stop"] = option(
        "continue", "If an evaluation raises an exception: report it and continue training, or stop the run."
    )

    def problems(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for options that would have no effect."""
        for name in ("target_returns", "targets", "max_live", "max_steps", "step_timeout", "env_kwargs", "wrappers"):
            if getattr(self, name) and not self.env_id:
                problem = "targets" if name.startswith("target") else name
                yield name, f"{problem} without an environment", "set evaluation.env_id too"
