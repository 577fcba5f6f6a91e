"""Compare exported policies with their sessions, action by action, in closed loops.

    python studies/export_agreement.py --minutes 25

Trains one small policy per task (a hundred updates or fewer, on random actions: how well it acts does not matter here),
exports it, and lets both act in the same environment: the exported session chooses what is executed, and the session of the library
sees the same observations and rewards. In a separate copy of the environment the library's session acts on its own; its
episode must be the same one. Actions are compared in the environment's units. The measurement goes on where it stopped:
results are written after every round of episodes.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import numpy as np

import rl_transformer
from rl_transformer.environments import KEY_TO_DOOR, graph_walk_id
from rl_transformer.export.reference.session import Policy as ExportedPolicy
from rl_transformer.export.write import STEP, WINDOW, ExportOptions, export_policy
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions

WORK = Path("runs/export-agreement")
RESULT = Path(__file__).parent / "results" / "export-agreement-2cpu-2026-11-26.json"
GOAL = 1_000_000


def hopper():
    return gymnasium.make("Hopper-v5")


def key_to_door():
    return gymnasium.make(KEY_TO_DOOR)


def graph_walk():
    return gymnasium.make(graph_walk_id(100))


class Pictures(gymnasium.Env):
    """A bright square on noise; moving it to the left edge is rewarded. 30 steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (40, 40, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = int(self.np_random.integers(36)), 0
        return self._picture(), {}

    def step(self, action):
        self.at = int(np.clip(self.at + 4 * (int(action) - 1), 0, 35))
        self.steps += 1
        return self._picture(), float(self.at == 0), False, self.steps == 30, {}

    def _picture(self):
        picture = self.np_random.integers(0, 60, (40, 40, 1), dtype=np.uint8)
        picture[18:22, self.at : self.at + 4] = 255
        return picture


# Environment, preset, options, file of the export, are there masks, the largest number of steps of an episode.
TASKS = {
    "Hopper": (hopper, "fast", {}, WINDOW, False, 1000),
    "Hopper, cached step": (hopper, "gym", {"model.attention": "sliding_window"}, STEP, False, 1000),
    "Key-to-Door": (key_to_door, "key-to-door", {}, WINDOW, False, 100),
    "graph walk with masks": (graph_walk, "key-to-door", {"windows.context_length": 10}, WINDOW, True, 50),
    "pictures": (
        Pictures,
        "image",
        {
            "model.frame_stack": 2,
            "model.attention": "sliding_window",
            "windows.context_length": 10,
            "training.train_steps": 20,
        },
        STEP,
        False,
        30,
    ),
}


def record(make, episodes, most):
    """Return episodes of random actions."""
    env = make()
    env.action_space.seed(0)
    recorded = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        observations, actions, rewards, done = [observation], [], [], False
        while not done and len(actions) < most:
            actions.append(env.action_space.sample())
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward) + 1e-3 * len(rewards))
            done = terminated or truncated
        recorded.append(
            {
                "observations": np.array(observations),
                "actions": np.array(actions),
                "rewards": rewards,
                "truncated": True,
            }
        )
    return rl_transformer.TrajectoryDataset.from_episodes(
        recorded, observation_space=env.observation_space, action_space=env.action_space
    )


def prepare(name):
    """Train and export the policy of a task, unless that is done, and return both forms of it."""
    make, preset, options, file, _, most = TASKS[name]
    folder = WORK / name.replace(" ", "-").replace(",", "")
    if not (folder / "export" / "policy.json").exists():
        config = rl_transformer.preset(preset)
        for option, value in {
            "training.train_steps": 100,
            "training.threads": 1,
            "training.batch_size": 16,
            **options,
        }.items():
            config.set(option, value)
        config.output = str(folder / "run")
        rl_transformer.train(config, dataset=record(make, 60, most))
        policy = rl_transformer.load_policy(folder / "run")
        export_policy(policy, folder / "export", ExportOptions(cached=file == STEP))
    return rl_transformer.load_policy(folder / "run"), ExportedPolicy(folder / "export", file)


def run_episode(name, policy, exported, seed):
    """Return what one episode established."""
    make, _, _, _, has_masks, most = TASKS[name]
    env, alone = make(), make()
    random = np.random.default_rng(seed)
    target = (
        None
        if exported.rules["default_target"] is None
        else float(random.uniform(0.2, 1)) * exported.rules["default_target"]
    )
    sessions = exported.session(target, seed), policy.session(target, seed), policy.session(target, seed)
    observation, _ = env.reset(seed=seed)
    other, _ = alone.reset(seed=seed)
    largest, differing, steps, achieved, done, same = 0.0, 0, 0, [0.0, 0.0], False, True
    is_ended = False
    while not done and steps < most:
        allowed = random.random(env.action_space.n) < 0.7 if has_masks else None
        if has_masks and not allowed.any():
            allowed[:] = True
        action = sessions[0].act(observation, allowed)
        expected = sessions[1].act(observation, allowed)
        difference = float(np.abs(np.asarray(action, float) - expected).max())
        largest, differing = max(largest, difference), differing + (difference > 0)
        observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        sessions[0].observe(reward)
        sessions[1].observe(reward, action=action)
        achieved[0] += float(reward)
        if not is_ended:
            other, reward, terminated, truncated, _ = alone.step(sessions[2].act(other, allowed))
            sessions[2].observe(reward)
            achieved[1] += float(reward)
            is_ended = terminated or truncated
            same = same and is_ended == done
        steps += 1
    return {
        "steps": steps,
        "largest_difference": largest,
        "differing": differing,
        "same_length": same,
        "return_difference": abs(achieved[0] - achieved[1]),
    }


def add(row, episode):
    """Add an episode to the result of its task."""
    row["episodes"] += 1
    row["steps"] += episode["steps"]
    row["largest_difference"] = max(row["largest_difference"], episode["largest_difference"])
    row["actions_that_differ_at_all"] += episode["differing"]
    row["episodes_of_equal_length"] += episode["same_length"]
    row["largest_return_difference"] = max(row["largest_return_difference"], episode["return_difference"])


def new_row(name):
    return {
        "task": name,
        "file": TASKS[name][3],
        "episodes": 0,
        "steps": 0,
        "largest_difference": 0.0,
        "actions_that_differ_at_all": 0,
        "episodes_of_equal_length": 0,
        "largest_return_difference": 0.0,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=25)
    minutes = parser.parse_args().minutes
    begin = time.perf_counter()
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows = {row["task"]: row for row in stored["rows"]}
    policies = {name: prepare(name) for name in TASKS}
    while time.perf_counter() - begin < 60 * minutes and sum(row["steps"] for row in rows.values()) < GOAL:
        # The task with the fewest steps is next, so that all of them get as many.
        name = min(TASKS, key=lambda task: rows.get(task, {"steps": 0})["steps"])
        row = rows.setdefault(name, new_row(name))
        for _ in range(10):
            add(row, run_episode(name, *policies[name], seed=1000 + row["episodes"]))
        total = sum(row["steps"] for row in rows.values())
        result = {"goal": GOAL, "steps": total, "rows": list(rows.values()), "versions": versions("onnxruntime")}
        write_text(RESULT, to_json(result))
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
