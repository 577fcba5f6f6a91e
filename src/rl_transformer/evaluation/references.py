"""Reference scores of the literature: what a normalized score counts as 0 and as 100."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rl_transformer.errors import RLTransformerError, did_you_mean

_D4RL = "d4rl/infos.py"
_ATARI = "Chen et al. 2021, Table 11"


@dataclass(frozen=True)
class Reference:
    """The scores of a random policy and of an expert, or a human, in one task."""

    name: str
    """As in ``--reference``."""
    random: float
    """Score that counts as 0."""
    expert: float
    """Score that counts as 100: of D4RL's expert, or of a professional player for Atari games."""
    source: str
    task: str
    """The environment's name without namespace, version and variant, in lower case."""

    def normalized(self, score: float) -> float:
        """Return 100 (score - random) / (expert - random), for a mean return in the environment's units."""
        return 100 * (score - self.random) / (self.expert - self.random)

    def __str__(self) -> str:
        return f"{self.source}: {self.name}"


def _d4rl(name: str, random: float, expert: float) -> Reference:
    return Reference(name, random, expert, _D4RL, name)


def _atari(game: str, random: float, human: float) -> Reference:
    return Reference(f"atari-{game}", random, human, _ATARI, game)


REFERENCES: dict[str, Reference] = {
    reference.name: reference
    for reference in (
        _d4rl("halfcheetah", -280.178953, 12135.0),
        _d4rl("hopper", -20.272305, 3234.3),
        _d4rl("walker2d", 1.629008, 4592.3),
        # These give the normalized scores of the paper's Table 1 from its raw scores to within 0.3. Other papers use
        # other numbers for the same games, such as 1.7 and 31.8 for Breakout, and their scores cannot be compared.
        _atari("breakout", 2.0, 30.0),
        _atari("qbert", 164.0, 13455.0),
        _atari("pong", -21.0, 15.0),
        _atari("seaquest", 68.0, 42055.0),
    )
}
"""All references by name."""


def find_reference(name: str, env_id: str) -> Reference:
    """Return a reference by its name.

    Args:
        name: A key of `REFERENCES`.
        env_id: Gymnasium id of the environment, or the name of its class.

    Raises:
        RLTransformerError: There is no such reference, or it is one of another task than the environment.
    """
    if name not in REFERENCES:
        fix = f"{did_you_mean(name.lower(), REFERENCES)}choose one of {', '.join(REFERENCES)}"
        raise RLTransformerError(f"no reference scores for {name!r}", where="reference", fix=fix)
    reference = REFERENCES[name]
    task = _task_of(env_id)
    by_task = {known.task: known.name for known in REFERENCES.values()}
    # Classes and ids of one's own may be any task, so only names that are known to be another one are refused.
    if task != reference.task and (env_id.startswith("ALE/") or task in by_task):
        fix = f"use {by_task[task]}" if task in by_task else "leave it out: there are no scores for this environment"
        raise RLTransformerError(f"{name} has the scores of another task than {env_id}", where="reference", fix=fix)
    return reference


def _task_of(env_id: str) -> str:
    """Return the task of an id: ``ALE/Breakout-v5``, ``BreakoutNoFrameskip-v4`` and ``Breakout-ramNoFrameskip-v4`` are one."""
    name = env_id.rpartition("/")[2].partition("-")[0]
    return re.sub(r"(NoFrameskip|Deterministic)$", "", name).lower()
