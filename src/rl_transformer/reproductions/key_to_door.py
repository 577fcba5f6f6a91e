"""Key-to-Door (Chen et al. 2021, sections 5.4 and 5.5): the arms, which `rlt demo` shares, and the full experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from rl_transformer.config.run import RunConfig
from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.environments.key_to_door import EPISODE_STEPS, PHASE_STEPS, random_success_rate
from rl_transformer.evaluation import plots
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.statistics import over_seeds, success_rate
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, with_options, cached_dataset, cached_policy
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.models.return_model import BEFORE_ACTION
from rl_transformer.policy import Policy
from rl_transformer.config.presets import key_to_door
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store
from rl_transformer.windows.gathering import WindowBatch, WindowGatherer
from rl_transformer.windows.sampling import WindowIndex

NUM_EPISODES = 1_000


@dataclass(frozen=True)
class Arm:
    """One policy of the comparison."""

    name: str
    title: str
    num_trajectories: int
    paper: str
    """Success in Chen et al. 2021, table 6 (their rooms and model are not published)."""
    takes_return: bool = False
    return_balance: float = 0.0
    min_return: float | None = None


ARMS = (
    Arm("decision_transformer", "Decision Transformer", 10_000, "94.6 %", takes_return=True, return_balance=1.0),
    Arm("behavior_cloning", "behavior cloning", 10_000, "1.6 %"),
    Arm(
        "behavior_cloning_same_sampler",
        "behavior cloning, Decision Transformer's sampler",
        10_000,
        "-",
        return_balance=1.0,
    ),
    Arm("percent_bc", "%BC (successful episodes only)", 10_000, "95.1 %", min_return=1.0),
    Arm("decision_transformer", "Decision Transformer", 1_000, "71.8 %", takes_return=True, return_balance=1.0),
    Arm("percent_bc", "%BC (successful episodes only)", 1_000, "69.9 %", min_return=1.0),
)


def collect(folder: Path, num_episodes: int, *, seed: int = 0) -> TrajectoryDataset:
    """Record random walks with seeds ``seed``, ``seed`` + 1, ... as a store."""
    spec, walks = record_episodes(make_environment(KEY_TO_DOOR).unwrapped, KEY_TO_DOOR, num_episodes, seed=seed)
    return write_store(folder, spec, walks)


def arm_config(arm: Arm) -> RunConfig:
    """Return the preset with what makes this arm."""
    config = key_to_door()
    config.dataset.max_trajectories = arm.num_trajectories
    config.dataset.min_return = arm.min_return
    config.windows.return_balance = arm.return_balance
    config.model.conditions = ["return_to_go"] if arm.takes_return else []
    return config


def score(
    policy: Policy, target: float | None, *, num_episodes: int = NUM_EPISODES, record: bool = False
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the success rate, and the frames of the first success if ``record``."""
    targets = [] if target is None else [target]
    report = evaluate(
        policy,
        env_id=KEY_TO_DOOR,
        target_returns=targets,
        num_episodes=num_episodes,
        seed=EVALUATION_SEED,
        record=10 if record else 0,
    )
    returns = report.targets[0].episode_returns
    frames = next((f for f, earned in zip(report.recordings, returns, strict=False) if earned > 0), [])
    return success_rate(sum(earned > 0 for earned in returns), len(returns)), frames


class KeyToDoor(Experiment):
    """Seed i is data seed i // 2 with training seed i % 2."""

    name = "key-to-door"
    title = "Key-to-Door"
    question = (
        "Random walks through three rooms: a key in the first, nothing in the second, in the third a door that opens with the "
        "key. One walk in 36 succeeds, and the reward comes 30 steps after what earned it. Can a policy be learned from that log? "
        "The strong rival is %BC, the cloning of successful walks; a model of returns trained beside the policy (section 5.5 "
        "of the paper) shows when the return becomes known, and what it attends to."
    )
    rules: ClassVar = {
        "random": "random walks succeed in 2.5 to 3.2 % of the logged episodes (exactly 2.81 %)",
        "dt_10000": "DT on 10,000 walks: 90 % or more",
        "dt_1000": "DT on 1,000 walks: 65 % or more",
        "bc": "behavior cloning on 10,000 walks: 5 % or less",
        "rival": "|DT - %BC| < 10 points on 10,000 walks",
        "more_data": "DT does better on 10,000 walks than on 1,000 in every run",
        "control": "DT asked for 0: 5 % or less",
    }
    seeds = 6
    enough_seeds = 6
    differs = (
        "Rooms and phases are those of the original environment (Hung et al. 2018) with an empty middle room and a reward of 1 "
        "at the door; random walks succeed in 2.81 % of episodes, the paper reports 3.1 % [S] for its own.",
        "DT draws windows evenly over returns (`windows.return_balance 1`); plain sampling sees a success once in 36 windows. "
        "Cloning under the same sampler stands beside it.",
        "The model of returns is a second transformer that reads no returns; the paper trains one network for both.",
    )
    unknown = (
        "The paper's rooms, observations, model sizes, seeds, and what its %BC keeps. Equality with its figures is therefore no rule.",
        "Whether anything in this task shows that returns are worth more than filtering: %BC knows which walks to keep, and "
        "cloning under DT's sampler mostly sees successes too. What only DT can do is to fail when it is asked for 0.",
    )

    def interval_over(self, setup: Setup) -> str:
        """Return runs: two of them share their data, and are not independent of each other."""
        return (
            f"{setup.seeds} runs on {len(self._data_seeds(setup))} data sets (runs on one data set are not independent)"
        )

    @staticmethod
    def _data_seeds(setup: Setup) -> list[int]:
        return sorted({seed // 2 for seed in range(setup.seeds)})

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The sizes."""
        quick = setup.quick
        return {
            "walks": 2_000 if quick else 10_000,
            "sizes": [2_000] if quick else [10_000, 1_000],
            "episodes": 200 if quick else NUM_EPISODES,
            "held_out": 1_000 if quick else 4_000,
            "options": {"training.train_steps": 300} if quick else {},
        }

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Record the walks of every data seed, and those held out."""
        for data_seed in self._data_seeds(setup):
            self._data(setup, data_seed)
        return {"held_out": self._held_out(setup).fingerprint}

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy an arm, data seed and training seed."""
        sizes = self.recipe(setup)["sizes"]
        arms = [arm for arm in ARMS if arm.num_trajectories == 10_000 or len(sizes) > 1]
        return [
            {"arm": f"{arm.name}-{arm.num_trajectories}", "data_seed": seed // 2, "seed": seed % 2}
            for seed in range(setup.seeds)
            for arm in arms
        ]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """Success, and for DT on all walks also the control and the model of returns."""
        recipe = self.recipe(setup)
        arm = next(arm for arm in ARMS if f"{arm.name}-{arm.num_trajectories}" == cell["arm"])
        data = self._data(setup, cell["data_seed"])
        is_main = arm is ARMS[0]
        options = {**recipe["options"], "training.seed": cell["seed"], "returns.predict": is_main}
        policy = cached_policy(with_options(arm_config(arm), options), setup, data)
        wanted = 1.0 if arm.takes_return else None
        rate, _ = score(policy, wanted, num_episodes=recipe["episodes"])
        found = {"success": rate["rate"], "random": float((data.episode_returns > 0).mean())}
        if is_main:
            zero, _ = score(policy, 0.0, num_episodes=recipe["episodes"])
            found |= {"asked_0": zero["rate"], **return_model_diagnostics(policy, self._held_out(setup))}
        return found

    def _data(self, setup: Setup, data_seed: int) -> TrajectoryDataset:
        walks = self.recipe(setup)["walks"]
        name = f"key-to-door-{walks}-{data_seed}"
        seed = 10_000_000 * (data_seed + 1)
        return open_trajectories(cached_dataset(setup, name, lambda folder: collect(folder, walks, seed=seed)))

    def _held_out(self, setup: Setup) -> TrajectoryDataset:
        walks = self.recipe(setup)["held_out"]
        name = f"key-to-door-held-out-{walks}"
        return open_trajectories(cached_dataset(setup, name, lambda folder: collect(folder, walks, seed=5_000_000)))

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare the arms, run by run."""

        def over(arm: str, measure: str = "success") -> dict[str, Any]:
            return over_seeds(values_of(measured, measure, arm=arm), self.interval_over(setup))

        names = list(dict.fromkeys(row["arm"] for row in measured))
        scores = {name: over(name) for name in names}
        found = {f"{arm.name}-{arm.num_trajectories}": arm for arm in ARMS}
        walks = self.recipe(setup)["walks"]
        rows = []
        for name in names:
            arm = found[name]
            count = min(arm.num_trajectories, walks)
            source = "-" if arm.paper == "-" or count < arm.num_trajectories else f"{arm.paper} [S]"
            rows.append(Row(f"{arm.title}, {count:,} walks", scores[name], source))
        main, rival = scores["decision_transformer-10000"], scores["percent_bc-10000"]
        zero = over("decision_transformer-10000", "asked_0")
        of_data = {row["data_seed"]: row["random"] for row in measured}
        random = over_seeds(list(of_data.values()), "data_sets")
        rows += [Row("Decision Transformer asked for 0", zero), Row("the random walks themselves", random, "3.1 % [S]")]
        less, blind = scores.get("decision_transformer-1000"), scores["behavior_cloning-10000"]
        gap = over_seeds(np.subtract(main["values"], rival["values"]).tolist(), self.interval_over(setup))
        checks: dict[str, tuple[bool | None, str]] = {
            "random": (0.025 <= random["mean"] <= 0.032, f"{100 * random['mean']:.2f} %"),
            "dt_10000": (main["mean"] >= 0.9, f"{100 * main['mean']:.1f} %"),
            "dt_1000": (None, "not measured")
            if less is None
            else (less["mean"] >= 0.65, f"{100 * less['mean']:.1f} %"),
            "bc": (blind["mean"] <= 0.05, f"{100 * blind['mean']:.1f} %"),
            "rival": (abs(gap["mean"]) < 0.1, _points(gap)),
            "more_data": (None, "not measured")
            if less is None
            else (
                bool(np.all(np.greater(main["values"], less["values"]))),
                f"{np.greater(main['values'], less['values']).sum()} of {len(main['values'])} runs",
            ),
            "control": (zero["mean"] <= 0.05, f"{100 * zero['mean']:.1f} %"),
        }
        foreseen = {
            key: over("decision_transformer-10000", key) for key in ("with_key", "without_key", "attention_to_pickup")
        }
        rows += [
            Row("predicted return in the middle room, key taken", foreseen["with_key"], "27.4 % [C], the exact chance"),
            Row("predicted return in the middle room, key not taken", foreseen["without_key"], "0 % [C]"),
            Row("attention to the pick-up, over an even share", foreseen["attention_to_pickup"], "-", "times"),
        ]
        return Summary(
            rows,
            checks,
            {"random_exact": random_success_rate(), "difference_from_percent_bc": gap, "foreseen": foreseen},
        )

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """The predicted return over time, by what happened to the key."""
        curves = [row["curves"] for row in measured if "curves" in row]
        for (name, label), color in zip(_GROUPS.items(), (plots.ACCENT, "C0", plots.PALE), strict=True):
            axes.plot(np.mean([curve[name] for curve in curves], axis=0), color=color, label=label)
        for phase in (1, 2):
            axes.axvline(phase * PHASE_STEPS, color=plots.INK, linestyle=":", linewidth=1)
        axes.set_xlabel("step (rooms change at the dotted lines)")
        axes.set_ylabel("predicted return")
        axes.legend(frameon=False)


_GROUPS = {"opened": "key taken, door opened", "missed": "key taken, door missed", "no_key": "key not taken"}


@torch.inference_mode()
def return_model_diagnostics(policy: Policy, walks: TrajectoryDataset) -> dict[str, Any]:
    """Return what the model of returns predicts on held-out walks, and how much it attends to the pick-up.

    Returns:
        ``with_key`` and ``without_key``: the mean prediction in the middle room, where nothing more can
        be learned. ``attention_to_pickup``: attention, mean over layers and heads, from the later rooms to
        the four tokens around the pick-up, divided by what an even share would be. ``curves``: mean
        prediction at each step, by what happened.
    """
    model = policy.return_model
    assert model is not None
    batch = _whole_episodes(policy, walks)
    predicted = model.expected(model(batch.states, batch.actions, batch.timesteps)[:, :, BEFORE_ACTION]).numpy()
    seen = walks.observations.reshape(len(walks), EPISODE_STEPS, -1)
    visible = seen[:, :PHASE_STEPS, 5] > 0
    # The key is taken in the step before it vanishes; taken in the very last one it is not seen to vanish.
    taken, opened = ~visible.all(axis=1), walks.episode_returns > 0
    groups = {"opened": taken & opened, "missed": taken & ~opened, "no_key": ~taken & ~opened}
    middle = slice(PHASE_STEPS + 1, 2 * PHASE_STEPS)
    return {
        "with_key": float(predicted[taken, middle].mean()),
        "without_key": float(predicted[groups["no_key"], middle].mean()),
        "attention_to_pickup": _attention_to_pickup(policy, batch, visible),
        "curves": {name: predicted[which].mean(axis=0).tolist() for name, which in groups.items()},
    }


def _whole_episodes(policy: Policy, walks: TrajectoryDataset) -> WindowBatch:
    gatherer = WindowGatherer(
        walks,
        conditions=[],
        condition_scales=[],
        window_length=EPISODE_STEPS,
        max_timesteps=policy.spec.model.max_ep_len,
        scaling=policy.scaling,
    )
    return gatherer.gather(WindowIndex(walks.offsets[:-1], np.arange(len(walks))))


def _attention_to_pickup(policy: Policy, batch: WindowBatch, visible: np.ndarray) -> float:
    model = policy.return_model
    assert model is not None
    shares = []
    for episode in np.flatnonzero(~visible.all(axis=1))[:200]:
        gone = int(np.argmin(visible[episode]))  # the first step at which the key is not seen any more
        inputs = (x[episode : episode + 1] for x in (batch.states, batch.actions, batch.timesteps))
        weights = torch.stack(model.attentions(*inputs)).mean(
            dim=(0, 1, 2)
        )  # (L, L) over observation and action tokens
        later = torch.arange(2 * PHASE_STEPS, 2 * EPISODE_STEPS, 2)  # observation tokens of the later rooms
        around = slice(max(0, 2 * (gone - 1)), 2 * (gone + 1))
        received = weights[later, around].sum(dim=1)
        even = (around.stop - around.start) / (later + 1)
        shares.append(float((received / even).mean()))
    return float(np.mean(shares))


def _points(gap: dict[str, Any]) -> str:
    if gap["interval"] is None:
        return f"{100 * gap['mean']:+.1f} points, one run"
    return f"{100 * gap['mean']:+.1f} [{100 * gap['interval'][0]:+.1f}, {100 * gap['interval'][1]:+.1f}] points"
