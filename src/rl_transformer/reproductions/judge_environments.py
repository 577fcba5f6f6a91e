"""The judge's networks judged: verdicts about policies of known value in Key-to-Door, a T-maze and CartPole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.critics.networks import FitOptions
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.offline.judge import estimate_side, read_log
from rl_transformer.evaluation.offline.verdict import RULE
from rl_transformer.reproductions.experiment import JSON, Cell, Check, Experiment, Measured, Row, Setup, Summary, pick
from rl_transformer.reproductions.judge import NAMES
from rl_transformer.reproductions.judge_policies import ALONE, describe_verdict
from rl_transformer.reproductions.judged_play import DRAWN_WITH
from rl_transformer.reproductions.judged_rows import (
    Test,
    abstains,
    covers,
    describe_share,
    every,
    is_supported,
    is_wrong,
    rate_of,
    regret_of,
    share_of,
)
from rl_transformer.reproductions.judged_tasks import TASKS, behaviors_of, policies_of, true_values
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.reading import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Critics are half as wide as those of `rlt judge`, and fitted for half as long, so that many logs can be judged; targets follow
# twice as fast, so that rewards reach as far.
_OPTIONS = FitOptions(hidden_size=64, critic_updates=2000, target_rate=0.1)
# Another number when logs are drawn anew.
_LOGS = 0x40DF
_ALL_JUDGED_IN = 10
"""So many seeds judge every policy of every task."""
_KINDS = ("estimated", "recorded")


class JudgeEnvironments(Experiment):
    """Coverage, wrong words and abstention of the judge's networks where the truth is known."""

    name = "judge-environments"
    title = "The judge judged, in environments with histories"
    question = (
        "Networks estimate the behavior and the values of a policy from logs of 1,000 and 10,000 episodes of Key-to-Door, a T-maze of "
        "11 steps, CartPole with at most 100 steps, and the first 50 steps of Hopper, where actions are vectors. Two behaviors make "
        "logs in each; the judged policies are 40 whose values are known: a usual policy mixed with better, worse and random ones. Is "
        "the word right, and how often is there one? Each verdict is made twice, with propensities that a network estimates, and with "
        f"those that the log records. The rule of the judge: {RULE}."
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
        "Key-to-Door and the T-maze, by a million simulated episodes in CartPole and 12,000 in Hopper. All policies are simulated with the "
        "same starts and the same noise; the standard errors of their differences are in `values/`, and `exact_error` in the cells. "
        "Everything after the probabilities is what `rlt judge` does.",
        "Hopper is cut after 50 steps, because weights are products over all steps. Its policies draw their actions from Gaussians of spread "
        "0.4 around a controller of nine numbers, which a random search found once; they are mixed by their means and spreads, and the third "
        "kind, beside better and worse, draws with less noise. Actions are logged before they are clipped.",
        "Critics are half as wide as those of `rlt judge` (64), and fitted for half as many updates (2,000), with targets that follow twice as "
        "fast. Networks of the behavior are those of `rlt judge`.",
        "Each seed has one log of each size, from the one behavior and the other in turn. In the T-maze and CartPole a log judges four of the "
        "policies, others each time, so that five seeds judge each once; in Key-to-Door and Hopper two, and ten seeds half of the policies, the "
        "other seeds the other half.",
        "Verdicts of one log err together, because each is against the mean of the log's own returns. So intervals of the shares are over logs.",
    )
    unknown = (
        "Before the rules were written, a few logs of another seed were judged to choose sizes. In those, weighted doubly robust estimates with "
        "estimated propensities missed the truth in Key-to-Door and, by less with the networks' usual sizes, in CartPole; therefore recorded "
        "propensities are tried, too. Two runs were stopped after 2 and 3 of 60 cells, because estimated propensities gave weights far above 1 "
        "on average, where right ones give 1; since then the judge's rule has the condition on the mean weight.",
        "A whole run of 20 policies without Hopper, at commit 31b1b2085c, missed the last rule: 52.0 % of verdicts from 10,000 episodes were "
        "'not established', 26 % with recorded propensities and 78 % with estimated ones. On logs of other seeds (100 to 102) the reason was "
        "looked for: networks of two layers and steps of 0.001 blurred the borders at which the behavior changes what it does, and a "
        "temperature from a tenth of the steps was off by chance. Now they have four layers, steps of 0.01, and as many updates as held-out "
        "episodes allow; they may read past observations without past actions, and a temperature that chance explains is left at 1. On one of "
        "those logs of each task the divergence per episode fell from 0.19 to 0.011 in CartPole, from 0.26 to 0.007 in Key-to-Door, and from "
        "0.038 to 0.003 in the T-maze; in CartPole twice as wide networks or twice as many updates helped no further. In Hopper it is "
        "0.024, most of it for want of data: averages of two or four networks lowered it by a tenth to a fifth. (`python studies/judge_propensities.py` measures the present ones.) The rules and the judge's conditions are unchanged. All logs "
        "were drawn anew. After five seeds, 40 logs, the intervals held the truth in 76.5 % of cases with estimated and 80.5 % with recorded "
        "propensities. Because a log's verdicts err together, five more seeds were run, which was decided before they were: they alone have 90.9 "
        "and 91.1 %.",
        "That run, of ten seeds, had 84.0 % with estimated and 85.9 % with recorded propensities. Two faults of the trial were found then. The "
        "values that intervals were held against were themselves too uncertain: their standard errors were as large as those of the estimates "
        "from 10,000 episodes of Hopper, and 0.43 of them in CartPole, so that right intervals would have held them in about 75 and 87 % of "
        "cases. They were simulated again, 6 and 20 times as many episodes; against them the same logs have 78.3 and 84.0 %. And what the "
        "networks err by was in no interval. Now intervals are wider where the halves of a log disagree by more than chance explains. For that all "
        "logs of this page were drawn anew; the number of seeds, 12, was set before.",
        "With 12 seeds, 84.5 % [74.3, 95.1] of the intervals with estimated propensities held the truth, which leaves open whether the rule of 88 % "
        "is met. So 18 more seeds were measured. Their number was set before they were; the judge and the rules are unchanged. The new seeds "
        "alone have 83.0 % with estimated and 88.2 % with recorded propensities. The first 12 seeds were measured again by the present code: only the "
        "intervals of fitted Q evaluation changed.",
        "Where intervals with estimated propensities miss: 23 of the 51 misses are in the T-maze with 10,000 episodes, where 74 of 97 supported intervals hold. "
        "With recorded propensities the same ones miss, because the error is that of the log's own mean return, which all verdicts of a log share. "
        "10 are in Key-to-Door with 10,000 episodes, where 27 of 37 hold, and 33 of 38 with recorded propensities: there, errors of the estimated propensities "
        "are not covered. In all logs but those of the T-maze with 10,000 episodes, 86.9 % hold. The plain 90 % interval of the logged mean, for which nothing is "
        "estimated, holds its value in 160 of 180 logs of this trial (without Hopper), and in 104 of 120 further logs of the T-maze "
        "(studies/judge_log_luck.py).",
    )
    unit = "%"
    seeds = 30
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
            "policies": 40,
            "judged_per_log": {"t-maze": 4, "cartpole": 4, "key-to-door": 2, "hopper": 2},
            "hidden_size": _OPTIONS.hidden_size,
            "behavior_updates": 64 if setup.quick else _OPTIONS.behavior_updates,
            "critic_updates": 50 if setup.quick else _OPTIONS.critic_updates,
            "target_rate": _OPTIONS.target_rate,
        }

    def cells(self, setup: Setup) -> list[Cell]:
        """Return one log per seed, task and size."""
        recipe = self.recipe(setup)
        behaviors = recipe["behaviors"]
        return [
            # Each behavior in turn, and not the same one in both logs of a seed.
            {
                "task": task,
                "behavior": behaviors[(seed + number) % len(behaviors)],
                "num_episodes": episodes,
                "seed": seed,
            }
            for seed in range(setup.seeds)
            for task in recipe["tasks"]
            for number, episodes in enumerate(recipe["episodes"])
        ]

    def prepare(self, setup: Setup) -> JSON:
        """Write the true values, unless they are there: those of simulated policies take minutes."""
        for name in self.recipe(setup)["tasks"]:
            file = _values_file(setup, name)
            if not file.exists():
                log.info(f"{self.name}: the values of 40 policies in {TASKS[name].title}")
                write_text(file, to_json(true_values(TASKS[name])))
        return {}

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return what is said about some policies from one log, and what is true, in shares of the task's range."""
        recipe = self.recipe(setup)
        task = TASKS[cell["task"]]
        true = read_json(_values_file(setup, cell["task"]), fix="delete this file and repeat")
        act = behaviors_of(task)[cell["behavior"]]
        # Each cell has a log of its own, and the same one whenever it is measured.
        given = [cell["seed"], cell["num_episodes"], len(cell["behavior"]), len(cell["task"]), _LOGS]
        data = task.record(act, cell["num_episodes"], np.random.default_rng(given))
        options = replace(
            _OPTIONS, behavior_updates=recipe["behavior_updates"], critic_updates=recipe["critic_updates"]
        )
        logged = {
            kind: read_log(data, task.history, None, DRAWN_WITH if kind == "recorded" else None, options)
            for kind in _KINDS
        }
        # The behavior is fitted once: where its propensities are recorded, its network still says which actions are rare.
        fitted = logged["estimated"]
        unit = true["range"]
        first = np.repeat(data.observations[data.offsets[:-1]], data.lengths, axis=0)
        judged = {}
        for name in _chosen(list(true["policies"]), cell, recipe):
            difference, error = true["policies"][name][cell["behavior"]]
            parameters = policies_of(task)[name](np.asarray(data.observations), first)
            # So is the critic: it does not depend on the behavior's propensities.
            seen = task.kind.see(fitted, parameters)
            for kind in _KINDS:
                steps, side = estimate_side(seen, logged[kind])
                row = describe_verdict(steps, side, difference, unit, logged[kind].actions.gates([]))
                assert side.support is not None
                judged[f"{name}, {kind}"] = {
                    "propensities": kind,
                    "exact_error": error / unit,
                    "mean_weight": side.support.mean_weight,
                    **row,
                }
        own = true["behaviors"][cell["behavior"]][0]
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
        wrong = share_of(measured, is_wrong)
        abstained = share_of(large, abstains)
        checks = {
            "coverage": _is_covered(measured, "estimated"),
            "coverage_recorded": _is_covered(measured, "recorded"),
            "wrong": Check(wrong is not None and wrong <= 0.01, describe_share(measured, is_wrong)),
            "abstention": Check(abstained is not None and abstained <= 0.4, describe_share(large, abstains)),
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


def _values_file(setup: Setup, name: str) -> Path:
    return setup.output / "values" / f"{name}.json"


def _chosen(names: list[str], cell: Cell, recipe: JSON) -> list[str]:
    """Return the policies that a log judges, evenly over the list."""
    step = len(names) // recipe["judged_per_log"][cell["task"]]
    # Two logs per seed, of the two sizes. Their first policies are spread over a step, so that ten seeds judge all of them; where a
    # log judges few, odd seeds take those that even ones leave out.
    log_number = 2 * cell["seed"] + recipe["episodes"].index(cell["num_episodes"])
    return names[(log_number * step // _ALL_JUDGED_IN + cell["seed"] % 2) % step :: step]


def _of(kind: str, further: Test = every) -> Test:
    """Return a test for verdicts of one kind of propensities."""
    return lambda row: row["propensities"] == kind and further(row)


def _is_covered(measured: Measured, kind: str) -> Check:
    supported = _of(kind, is_supported)
    coverage = share_of(measured, covers, supported)
    return Check(None if coverage is None else coverage >= 0.88, describe_share(measured, covers, supported))


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
