"""Key-to-Door in full (Chen et al. 2021, sections 5.4 and 5.5): several data sets, several seeds, a return model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.environments.key_to_door import PHASE_STEPS, random_success_rate
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.differences import equivalent, paired_difference
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import (
    JSON,
    Cell,
    Check,
    Experiment,
    Measured,
    Row,
    Score,
    Setup,
    Summary,
    values_of,
)
from rl_transformer.reproductions.key_to_door_arms import ARMS, NUM_EPISODES, arm_config, collect, score
from rl_transformer.reproductions.return_model_diagnostics import GROUPS, return_model_diagnostics
from rl_transformer.reproductions.run_cache import cached_dataset, cached_policy, with_options
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ARMS = {arm.key: arm for arm in ARMS}
_MAIN = "decision_transformer-10000"


class KeyToDoor(Experiment):
    """Seed i is data seed i // 2 with training seed i % 2."""

    name = "key-to-door"
    title = "Key-to-Door"
    question = (
        "Random walks through three rooms: a key in the first, nothing in the second, in the third a door that opens with the "
        "key. One walk in 36 succeeds, and the reward comes 30 steps after what earned it. Can a policy be learned from that log? "
        "The strong baseline is %BC, the cloning of successful walks; a return model trained beside the policy (section 5.5 "
        "of the paper) shows when the return becomes known, and what it attends to."
    )
    rules: ClassVar = {
        "random": "random walks succeed in 2.5 to 3.2 % of the logged episodes (exactly 2.81 %)",
        "dt_10000": "DT on 10,000 walks: 90 % or more",
        "dt_1000": "DT on 1,000 walks: 65 % or more",
        "bc": "behavior cloning on 10,000 walks: 5 % or less",
        "rival": "|DT - %BC| < 10 points on 10,000 walks, with the whole 95 % interval of the paired difference",
        "more_data": "DT does better on 10,000 walks than on 1,000 in every run",
        "control": "DT with target return 0: 5 % or less",
    }
    seeds = 6
    enough_seeds = 6
    differs = (
        "Rooms and phases are those of the original environment (Hung et al. 2018) with an empty middle room and a reward of 1 "
        "at the door; random walks succeed in 2.81 % of episodes, the paper reports 3.1 % [S] for its own.",
        "DT draws windows evenly over returns (`windows.return_balance 1`); plain sampling sees a success once in 36 windows. "
        "Cloning under the same sampler stands beside it.",
        "The return model is a second transformer that reads no returns; the paper trains one network for both.",
    )
    unknown = (
        "The paper's rooms, observations, model sizes, seeds, and which walks its %BC keeps. Equality with its figures is therefore no rule.",
        "Whether anything in this task shows that returns are worth more than filtering: %BC knows which walks to keep, and "
        "cloning under DT's sampler mostly sees successes too. What only DT can do is to fail when its target return is 0.",
    )

    def interval_over(self, setup: Setup) -> str:
        """Return runs: two of them share their data, and are not independent of each other."""
        num_data_sets = len(self._data_seeds(setup))
        return f"{setup.seeds} runs on {num_data_sets} data sets (runs on one data set are not independent)"

    @staticmethod
    def _data_seeds(setup: Setup) -> list[int]:
        return sorted({seed // 2 for seed in range(setup.seeds)})

    def recipe(self, setup: Setup) -> JSON:
        """Return the sizes."""
        quick = setup.quick
        return {
            "walks": 2_000 if quick else 10_000,
            "sizes": [2_000] if quick else [10_000, 1_000],
            "episodes": 200 if quick else NUM_EPISODES,
            "held_out": 1_000 if quick else 4_000,
            "options": {"training.train_steps": 300} if quick else {},
        }

    def prepare(self, setup: Setup) -> JSON:
        """Record the walks of every data seed, and those held out."""
        for data_seed in self._data_seeds(setup):
            self._data(setup, data_seed)
        return {"held_out": self._held_out(setup).fingerprint}

    def cells(self, setup: Setup) -> list[Cell]:
        """Return one policy per arm, data seed and training seed."""
        sizes = self.recipe(setup)["sizes"]
        arms = [arm for arm in ARMS if arm.num_trajectories == 10_000 or len(sizes) > 1]
        return [
            {"arm": arm.key, "data_seed": seed // 2, "seed": seed % 2} for seed in range(setup.seeds) for arm in arms
        ]

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return the success rate; for DT on all walks also that of target return 0, and what its return model knows."""
        recipe = self.recipe(setup)
        arm = _ARMS[cell["arm"]]
        data = self._data(setup, cell["data_seed"])
        is_main = cell["arm"] == _MAIN
        options = {**recipe["options"], "training.seed": cell["seed"], "returns.predict": is_main}
        policy = cached_policy(with_options(arm_config(arm), options), setup, data)
        # 1 is the return of a walk that opens the door, the largest there is.
        rate, _ = score(policy, 1.0 if arm.takes_return else None, num_episodes=recipe["episodes"])
        measures = {"success": rate["rate"], "random": float((data.episode_returns > 0).mean())}
        if not is_main:
            return measures
        target_zero, _ = score(policy, 0.0, num_episodes=recipe["episodes"])
        return {
            **measures,
            "asked_0": target_zero["rate"],
            **return_model_diagnostics(policy, self._held_out(setup)),
        }

    def _data(self, setup: Setup, data_seed: int) -> TrajectoryDataset:
        walks = self.recipe(setup)["walks"]
        name = f"key-to-door-{walks}-{data_seed}"
        # So far apart that no walk is in two data sets, or in the one held out, which begins at 5,000,000.
        seed = 10_000_000 * (data_seed + 1)
        return open_trajectories(cached_dataset(setup, name, lambda folder: collect(folder, walks, seed=seed)))

    def _held_out(self, setup: Setup) -> TrajectoryDataset:
        walks = self.recipe(setup)["held_out"]
        name = f"key-to-door-held-out-{walks}"
        return open_trajectories(cached_dataset(setup, name, lambda folder: collect(folder, walks, seed=5_000_000)))

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare the arms, run by run."""

        def over_runs(arm: str, measure: str = "success") -> Score:
            return over_seeds(values_of(measured, measure, arm=arm), self.interval_over(setup))

        scores = {arm: over_runs(arm) for arm in dict.fromkeys(row["arm"] for row in measured)}
        target_zero = over_runs(_MAIN, "asked_0")
        # Runs on one data set share its walks; each data set counts once.
        random_by_data_seed = {row["data_seed"]: row["random"] for row in measured}
        random = over_seeds(list(random_by_data_seed.values()), "data_sets")
        names = ("with_key", "without_key", "attention_to_pickup")
        foreseen = {name: over_runs(_MAIN, name) for name in names}
        difference = paired_difference(scores[_MAIN], scores["percent_bc-10000"], self.interval_over(setup))
        rows = [
            *_arm_rows(scores, self.recipe(setup)["walks"]),
            Row("Decision Transformer with target return 0", target_zero),
            Row("the random walks themselves", random, "3.1 % [S]"),
            Row("predicted return in the middle room, key taken", foreseen["with_key"], "27.4 % [C], the exact chance"),
            Row("predicted return in the middle room, key not taken", foreseen["without_key"], "0 % [C]"),
            Row("attention to the pick-up, over an even share", foreseen["attention_to_pickup"], "-", "times"),
        ]
        return Summary(
            rows,
            _checks(scores, random, target_zero, difference),
            {"random_exact": random_success_rate(), "difference_from_percent_bc": difference, "foreseen": foreseen},
        )

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw the predicted return over time, by what happened to the key."""
        curves = [row["curves"] for row in measured if "curves" in row]
        for (name, label), color in zip(GROUPS.items(), (plots.ACCENT, "C0", plots.PALE), strict=True):
            axes.plot(np.mean([curve[name] for curve in curves], axis=0), color=color, label=label)
        for phase in (1, 2):
            axes.axvline(phase * PHASE_STEPS, color=plots.INK, linestyle=":", linewidth=1)
        axes.set_xlabel("step (rooms change at the dotted lines)")
        axes.set_ylabel("predicted return")
        axes.legend(frameon=False)


def _arm_rows(scores: dict[str, Score], num_walks: int) -> list[Row]:
    """Return one row per arm; a smaller number of walks than the paper's has no published figure."""
    rows = []
    for name, arm_score in scores.items():
        arm = _ARMS[name]
        count = min(arm.num_trajectories, num_walks)
        published = "-" if arm.paper == "-" or count < arm.num_trajectories else f"{arm.paper} [S]"
        rows.append(Row(f"{arm.title}, {count:,} walks", arm_score, published))
    return rows


def _checks(scores: dict[str, Score], random: Score, target_zero: Score, difference: Score) -> dict[str, Check]:
    """Hold the scores against the rules; a quick run has no policies of 1,000 walks."""
    main = scores[_MAIN]
    cloning = scores["behavior_cloning-10000"]
    fewer_walks = scores.get("decision_transformer-1000")
    if fewer_walks is None:
        on_fewer = more_data = Check(None, "not measured")
    else:
        wins = np.greater(main["values"], fewer_walks["values"])
        on_fewer = Check(fewer_walks["mean"] >= 0.65, f"{100 * fewer_walks['mean']:.1f} %")
        more_data = Check(bool(wins.all()), f"{wins.sum()} of {len(wins)} runs")
    return {
        "random": Check(0.025 <= random["mean"] <= 0.032, f"{100 * random['mean']:.2f} %"),
        "dt_10000": Check(main["mean"] >= 0.9, f"{100 * main['mean']:.1f} %"),
        "dt_1000": on_fewer,
        "bc": Check(cloning["mean"] <= 0.05, f"{100 * cloning['mean']:.1f} %"),
        "rival": Check(equivalent(difference, 0.1).holds, _format_points(difference)),
        "more_data": more_data,
        "control": Check(target_zero["mean"] <= 0.05, f"{100 * target_zero['mean']:.1f} %"),
    }


def _format_points(difference: Score) -> str:
    """Return a difference of rates in percentage points as text."""
    mean = 100 * difference["mean"]
    if difference["interval"] is None:
        return f"{mean:+.1f} points, one run"
    low, high = (100 * bound for bound in difference["interval"])
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points"
