"""The judge's networks judged: verdicts about policies of known value in Key-to-Door, a T-maze and CartPole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.critics.networks import FitOptions
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.offline.action_kinds import DiscreteActions
from rl_transformer.evaluation.offline.judge import estimate_side, read_log
from rl_transformer.evaluation.offline.verdict import RULE
from rl_transformer.reproductions.experiment import JSON, Cell, Check, Experiment, Measured, Row, Setup, Summary, pick
from rl_transformer.reproductions.judge import NAMES
from rl_transformer.reproductions.judge_policies import ALONE, describe_verdict
from rl_transformer.reproductions.judged_rows import (
    Test,
    abstains,
    as_percent,
    covers,
    every,
    is_supported,
    is_wrong,
    rate_of,
    regret_of,
    share_of,
)
from rl_transformer.reproductions.judged_tasks import DRAWN_WITH, TASKS, behaviors_of, policies_of, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Half as wide, and fitted for half as long, as those of `rlt judge`, so that many logs can be judged; targets follow twice as
# fast, so that rewards reach as far.
_OPTIONS = FitOptions(hidden_size=64, behavior_updates=2000, critic_updates=2000, target_rate=0.1)
_KINDS = ("estimated", "recorded")


class JudgeEnvironments(Experiment):
    """Coverage, wrong words and abstention of the judge's networks where the truth is known."""

    name = "judge-environments"
    title = "The judge judged, in environments with histories"
    question = (
        "Networks estimate the behavior and the values of a policy from logs of 1,000 and 10,000 episodes of Key-to-Door, a T-maze of "
        "11 steps, and CartPole with at most 100 steps. Two behaviors make logs in each; the judged policies are 20 whose values are "
        "known: a usual policy mixed with better, worse and random ones. Is the word right, and how often is there one? Each verdict is "
        f"made twice, with propensities that a network estimates, and with those that the log records. The rule of the judge: {RULE}."
    )
    rules: ClassVar = {
        "coverage": "where support is enough, 90 % intervals of the difference hold the true one in 88 % of cases or more, with estimated "
        "propensities",
        "coverage_recorded": "the same with recorded propensities",
        "wrong": "at most 1 % of all verdicts are a wrong 'better'",
        "abstention": "with 10,000 episodes at most 40 % of verdicts are 'not established'",
    }
    differs = (
        "There is no paper behind this page. The policies act by rules and probabilities, so that their values are known: exactly in "
        "Key-to-Door and the T-maze, by 50,000 simulated episodes in CartPole (standard error about 0.15 steps). Everything after the "
        "probabilities is what `rlt judge` does.",
        "Networks are half as wide as those of `rlt judge` (64), fitted for half as many updates (2,000), with targets that follow twice as "
        "fast; with its own sizes a verdict takes four times as long.",
        "Each log judges two of the policies (in Key-to-Door one), others for each seed, behavior and size.",
    )
    unknown = (
        "Before the rules were written, a few logs of another seed were judged to choose sizes. In those, weighted doubly robust estimates with "
        "estimated propensities missed the truth in Key-to-Door and, by less with the networks' usual sizes, in CartPole; therefore recorded "
        "propensities are tried, too. A first run was stopped after 2 of 60 cells: estimated propensities gave weights that were 179 on average, "
        "where right ones give 1. Since then the judge's rule has the condition on the mean weight. A second run was stopped after 3 cells: "
        "most estimated propensities failed that condition, because a history that the behavior did not look at was learned by heart. "
        "Since then held-out steps decide whether the behavior's network reads the history. The rules of this page are unchanged, its logs "
        "were drawn anew both times, and each judges half as many policies as planned.",
        "Hopper, and action vectors at all, are not tried here.",
    )
    unit = "%"
    seeds = 5
    quick_seeds = 1
    enough_seeds = 5

    def interval_over(self, setup: Setup) -> str:
        """Return what a seed is here."""
        return "logs"

    def recipe(self, setup: Setup) -> JSON:
        """Return the sizes."""
        return {
            "episodes": [60, 100] if setup.quick else [1_000, 10_000],
            "tasks": ["t-maze"] if setup.quick else list(TASKS),
            "behaviors": ["usual"] if setup.quick else ["usual", "exploring"],
            "judged_per_log": {"t-maze": 2, "cartpole": 2, "key-to-door": 1},
            "hidden_size": _OPTIONS.hidden_size,
            "updates": 50 if setup.quick else _OPTIONS.critic_updates,
            "target_rate": _OPTIONS.target_rate,
        }

    def cells(self, setup: Setup) -> list[Cell]:
        """Return one log per seed, task, size and behavior."""
        recipe = self.recipe(setup)
        return [
            {"task": task, "behavior": behavior, "num_episodes": episodes, "seed": seed}
            for seed in range(setup.seeds)
            for task in recipe["tasks"]
            for episodes in recipe["episodes"]
            for behavior in recipe["behaviors"]
        ]

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return what is said about some policies from one log, and what is true, in shares of the task's range."""
        recipe = self.recipe(setup)
        task = TASKS[cell["task"]]
        act = behaviors_of(task)[cell["behavior"]]
        # Each cell has a log of its own, and the same one whenever it is measured.
        given = [cell["seed"], cell["num_episodes"], len(cell["behavior"]), len(cell["task"]), 0x7A5E]
        data = task.record(act, cell["num_episodes"], np.random.default_rng(given))
        options = replace(_OPTIONS, behavior_updates=recipe["updates"], critic_updates=recipe["updates"])
        logged = {
            kind: read_log(data, task.history, None, DRAWN_WITH if kind == "recorded" else None, options)
            for kind in _KINDS
        }
        policies = policies_of(cell["task"])
        unit = value_of(cell["task"], task.best) - value_of(cell["task"], task.worst)
        own = value_of(cell["task"], act)
        first = np.repeat(data.observations[data.offsets[:-1]], data.lengths, axis=0)
        fitting = logged["estimated"].actions
        assert isinstance(fitting, DiscreteActions)
        judged = {}
        for name in _chosen(list(policies), cell, recipe):
            judge = policies[name]
            exact = value_of(cell["task"], judge) - own
            # The critic is fitted once, because it does not depend on the behavior's propensities.
            seen = fitting.see_probabilities(judge(np.asarray(data.observations), first), logged["estimated"].is_last)
            for kind in _KINDS:
                steps, side = estimate_side(seen, logged[kind])
                row = describe_verdict(steps, side, exact, unit)
                assert side.support is not None
                judged[f"{name}, {kind}"] = {"propensities": kind, "mean_weight": side.support.mean_weight, **row}
        return {"behavior_value": own, "unit": unit, "judged": judged}

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Count what the verdicts got right."""
        recipe = self.recipe(setup)
        rows = []
        for task in recipe["tasks"]:
            for size in recipe["episodes"]:
                chosen = pick(measured, task=task, num_episodes=size)
                for kind in _KINDS:
                    label = f"{TASKS[task].title}, {size:,} episodes, {kind} propensities"
                    rows += _rows(chosen, setup, label, _of(kind), with_fqe=kind == _KINDS[0])
        large = pick(measured, num_episodes=recipe["episodes"][-1])
        by_kind = {kind: share_of(measured, covers, _of(kind, is_supported)) for kind in _KINDS}
        wrong = share_of(measured, is_wrong)
        abstained = share_of(large, abstains)
        checks = {
            "coverage": _at_least(by_kind["estimated"]),
            "coverage_recorded": _at_least(by_kind["recorded"]),
            "wrong": Check(wrong is not None and wrong <= 0.01, as_percent(wrong)),
            "abstention": Check(abstained is not None and abstained <= 0.4, as_percent(abstained)),
        }
        return Summary(rows, checks)

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw estimated against true differences of supported verdicts from the largest logs."""
        largest = max(row["num_episodes"] for row in measured)
        judged = [row for cell in pick(measured, num_episodes=largest) for row in cell["judged"].values()]
        for kind, color in zip(_KINDS, (plots.PALE, plots.ACCENT), strict=True):
            shown = [row for row in judged if _of(kind, is_supported)(row)]
            axes.plot(
                [r["exact"] for r in shown],
                [r["difference"] for r in shown],
                ".",
                color=color,
                label=f"{kind} propensities",
            )
        axes.plot([-1, 1], [-1, 1], color=plots.INK, linewidth=1)
        axes.set_xlabel("true difference to the behavior, share of the policies' range")
        axes.set_ylabel(f"estimated, {largest:,} episodes")
        axes.legend(frameon=False)


def _chosen(names: list[str], cell: Cell, recipe: JSON) -> list[str]:
    """Return the policies that a log judges, evenly over the list."""
    step = len(names) // recipe["judged_per_log"][cell["task"]]
    # Four logs per seed; 5 and 7 share no factor with 20, so that neither seeds nor logs repeat each other's policies.
    log = 2 * recipe["episodes"].index(cell["num_episodes"]) + recipe["behaviors"].index(cell["behavior"])
    return names[(7 * cell["seed"] + 5 * log) % step :: step]


def _of(kind: str, further: Test = every) -> Test:
    """Return a test for verdicts of one kind of propensities."""
    return lambda row: row["propensities"] == kind and further(row)


def _at_least(coverage: float | None) -> Check:
    return Check(None if coverage is None else coverage >= 0.88, as_percent(coverage))


def _rows(chosen: Measured, setup: Setup, label: str, among: Test, *, with_fqe: bool) -> list[Row]:
    """Return the lines of the table for one task, size and kind of propensities."""
    rows = []

    def supported(row: JSON) -> bool:
        return among(row) and is_supported(row)

    if share_of(chosen, covers, supported) is not None:
        rows.append(
            Row(f"{label}: coverage of 90 % intervals, where supported", rate_of(chosen, setup, covers, supported))
        )
    rows += [
        Row(f"{label}: 'better' that is wrong", rate_of(chosen, setup, is_wrong, among)),
        Row(f"{label}: not established", rate_of(chosen, setup, abstains, among)),
        Row(
            f"{label}: not established for want of support",
            rate_of(chosen, setup, lambda row: not row["supported"], among),
        ),
    ]
    # Without any condition on support; fitted Q evaluation does not depend on propensities.
    for short in ALONE:
        if short != "fqe" or with_fqe:
            name = f"{label}: {NAMES[short]}"
            rows += [
                Row(f"{name}, coverage", rate_of(chosen, setup, lambda row, s=short: row[s]["covers"], among)),
                Row(f"{name}, wrong 'better'", rate_of(chosen, setup, lambda row, s=short: row[s]["wrong"], among)),
            ]
    for by in ("judge", *ALONE, "behavior"):
        shown = NAMES.get(by, "staying with the behavior")
        rows.append(
            Row(f"{label}: regret of the pick, {shown}", regret_of(chosen, setup, by, among), unit="of the range")
        )
    return rows
