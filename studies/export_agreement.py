"""Compare exported policies with their sessions, action by action, in closed loops.

    python studies/export_agreement.py --minutes 25

Trains one small policy per task (a hundred updates or fewer, on random actions: how well it acts does not matter here),
exports it, and lets both act in the same environment: the exported session chooses what is executed, and the session of the library
sees the same observations and rewards. In a separate copy of the environment the library's session acts on its own; its
episode must be the same one. Many episodes take place at the same time, and the networks compute their actions in batches.
Actions are compared in the environment's units. The measurement goes on where it stopped: results are written after
every round of episodes.
"""

import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import torch

import rl_transformer
from rl_transformer.environments import KEY_TO_DOOR, graph_walk_id
from rl_transformer.export.reference.session import Policy as ExportedPolicy
from rl_transformer.export.write import STEP, WINDOW, ExportOptions, export_policy
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions

WORK = Path("runs/export-agreement")
RESULT = Path(__file__).parent / "results" / "export-agreement-2cpu-2026-11-26.json"
GOAL = 1_000_000
EPISODES = 64  # at the same time


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
    exported = ExportedPolicy(folder / "export", file)
    exported.model = Together(exported.model)
    return rl_transformer.load_policy(folder / "run"), exported


class Together:
    """Takes the place of an exported policy's network and runs it once for many sessions, each on a thread of its own."""

    def __init__(self, model):
        self.model = model
        self.threads = ThreadPoolExecutor(EPISODES)

    def act(self, sessions, observations, masks):
        """Return an action for each session."""
        self.feeds, self.results = {}, {}
        self.barrier = threading.Barrier(len(sessions), self._compute, timeout=600)
        return list(self.threads.map(lambda session, *inputs: session.act(*inputs), sessions, observations, masks))

    def run(self, names, feed):
        """Return one session's outputs; the session calls it as it calls onnxruntime."""
        self.names = names
        self.feeds[threading.get_ident()] = feed
        self.barrier.wait()  # the last one to arrive computes for all
        return self.results[threading.get_ident()]

    def _compute(self):
        feeds = list(self.feeds.values())
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        outputs = self.model.run(self.names, joined)
        for place, thread in enumerate(self.feeds):
            self.results[thread] = [output[place : place + 1] for output in outputs]


class Compared:
    """Lets exported sessions choose what is executed, and compares each action with that of the library's session."""

    def __init__(self, policy, exported, targets, seeds):
        self.together = exported.model
        starts = zip(targets, seeds, strict=True)
        self.exported = [exported.session(target, seed) for target, seed in starts]
        self.library = policy.sessions(targets, seeds)
        self.largest, self.differing = 0.0, 0

    def act(self, live, observations, masks):
        actions = self.together.act([self.exported[row] for row in live], observations, masks)
        for action, expected in zip(actions, act_alone(self.library, live, observations, masks), strict=True):
            difference = float(np.abs(np.asarray(action, float) - expected).max())
            self.largest = max(self.largest, difference)
            self.differing += difference > 0
        return actions

    def observe(self, live, rewards, actions):
        for row, reward in zip(live, rewards, strict=True):
            self.exported[row].observe(reward)
        self.library.observe(live, rewards, actions)


def act_alone(sessions, live, observations, masks):
    return sessions.act(live, np.stack(observations), None if masks[0] is None else np.stack(masks))


def play(name, seeds, act, observe):
    """Run episodes at the same time, and return their returns and lengths."""
    make, _, _, _, has_masks, most = TASKS[name]
    envs = [make() for _ in seeds]
    random = [np.random.default_rng(seed) for seed in seeds]
    seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    returns, steps = np.zeros(len(seeds)), np.zeros(len(seeds), int)
    live = list(range(len(seeds)))
    while live:
        masks = [random_mask(envs[row].action_space, random[row]) if has_masks else None for row in live]
        actions = list(act(live, [seen[row] for row in live], masks))
        rewards, going = [], []
        for row, action in zip(live, actions, strict=True):
            seen[row], reward, terminated, truncated, _ = envs[row].step(action)
            rewards.append(float(reward))
            returns[row] += rewards[-1]
            steps[row] += 1
            if not terminated and not truncated and steps[row] < most:
                going.append(row)
        observe(live, rewards, actions)
        live = going
    return returns, steps


def random_mask(space, random):
    """Return random legal actions, at least one."""
    allowed = random.random(space.n) < 0.7
    return allowed if allowed.any() else np.ones(space.n, bool)


def add_episodes(row, policy, exported):
    """Run episodes and add what they establish to the result of their task."""
    seeds = range(1000 + row["episodes"], 1000 + row["episodes"] + EPISODES)
    default = exported.rules["default_target"]
    targets = [None if default is None else np.random.default_rng(seed).uniform(0.2, 1) * default for seed in seeds]
    compared = Compared(policy, exported, targets, seeds)
    driven = alone = play(row["task"], seeds, compared.act, compared.observe)
    # Where every action was the same to the bit, the library's sessions alone would have met the same episodes.
    if compared.differing:
        sessions = policy.sessions(targets, seeds)

        def act(live, observations, masks):
            return act_alone(sessions, live, observations, masks)

        alone = play(row["task"], seeds, act, lambda live, rewards, _: sessions.observe(live, rewards))
    row["episodes"] += len(seeds)
    row["steps"] += int(driven[1].sum())
    row["largest_difference"] = max(row["largest_difference"], compared.largest)
    row["actions_that_differ_at_all"] += compared.differing
    row["episodes_of_equal_length"] += int((driven[1] == alone[1]).sum())
    row["largest_return_difference"] = max(row["largest_return_difference"], float(np.abs(driven[0] - alone[0]).max()))


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
    torch.set_num_threads(1)
    begin = time.perf_counter()
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows = {row["task"]: row for row in stored["rows"]}
    policies = {name: prepare(name) for name in TASKS}
    while time.perf_counter() - begin < 60 * minutes and sum(row["steps"] for row in rows.values()) < GOAL:
        # The task with the fewest steps is next, so that all of them get as many.
        name = min(TASKS, key=lambda task: rows.get(task, {"steps": 0})["steps"])
        add_episodes(rows.setdefault(name, new_row(name)), *policies[name])
        total = sum(row["steps"] for row in rows.values())
        result = {"goal": GOAL, "steps": total, "rows": list(rows.values()), "versions": versions("onnxruntime")}
        write_text(RESULT, to_json(result))
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
