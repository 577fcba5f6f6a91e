"""Splits random flat logs into episodes beside an oracle of a few lines, and writes episodes in every format."""

import copy
import os
import re
import shutil
from math import fsum
from pathlib import Path

import numpy as np
import torch

from rl_transformer import RLTransformerError, open_trajectories, train
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.readers.d4rl import needed_arrays, split_steps
from tests.misfortune.forked import forked_readers
from tests.misfortune.tally import Tally, silenced, without_waiting
from tests.toys import tiny_config
from tests.training.runs import stored_tensors
from tests.trajectories.every_format import WRITERS, random_data

WRITTEN_EVERY = 1_000
"""Of so many logs, the episodes of one are written in every format."""
TRAINED_EVERY = 20_000


class Log:
    """A random recording: rewards, flags of ends in one of several layouts, and perhaps a time limit.

    Args:
        random: Draws it.
    """

    def __init__(self, random):
        steps = int(random.integers(1, 60))
        density = random.choice([0.0, 0.02, 0.1, 0.3, 0.9])
        self.rewards = random.normal(size=steps) * 10.0 ** random.integers(-3, 4)
        self.terminals = random.random(steps) < density
        self.timeouts = random.random(steps) < random.choice([0.0, 0.05, 0.3])
        if random.random() < 0.3:
            self.timeouts |= self.terminals & (random.random(steps) < 0.5)  # both at one step
        if random.random() < 0.5:
            self.terminals[-1] = True
        self.layout = ("both", "terminals only", "dones", "terminals and dones")[random.integers(4)]
        self.limit = int(random.integers(1, 12)) if self.layout == "terminals only" and random.random() < 0.5 else None
        self.keep = bool(random.random() < 0.3)
        self.random = random
        if self.layout in ("terminals only", "dones"):
            self.timeouts[:] = False

    def arrays(self):
        """Return the arrays as a file holds them, with the dtypes and shapes that files have."""
        steps = len(self.rewards)
        flags = {
            "both": {"terminals": self.terminals, "timeouts": self.timeouts},
            "terminals only": {"terminals": self.terminals},
            "dones": {"dones": self.terminals},
            "terminals and dones": {"terminals": self.terminals, "dones": self.terminals | self.timeouts},
        }[self.layout]
        dtype = [bool, np.float32, np.uint8][self.random.integers(3)]
        flags = {name: flag.astype(dtype) for name, flag in flags.items()}
        rewards = self.rewards
        if self.random.random() < 0.3:
            rewards = rewards[:, None]
            flags = {name: flag[:, None] for name, flag in flags.items()}
        at = np.arange(steps, dtype=np.float32)
        return {"observations": np.stack([at, -at], axis=1), "actions": at[:, None] / 100, "rewards": rewards, **flags}

    def __str__(self):
        ends = np.flatnonzero(self.terminals), np.flatnonzero(self.timeouts)
        return f"{self.layout}, {len(self.rewards)} steps, ends {ends}, limit {self.limit}, keep {self.keep}"


def oracle(log):
    """Return the episodes of a log as (rewards, terminated, truncated), and how many steps are in none."""
    episodes = []
    current = []
    for reward, terminal, timeout in zip(log.rewards, log.terminals, log.timeouts, strict=True):
        current.append(float(reward))
        is_cut = bool(timeout)
        if log.layout == "terminals and dones":
            is_cut = is_cut and not terminal
        if log.limit is not None and len(current) == log.limit and not terminal:
            is_cut = True
        if terminal or is_cut:
            episodes.append((current, bool(terminal), is_cut))
            current = []
    if current and log.keep and episodes:
        episodes.append((current, False, False))
        current = []
    return episodes, len(current)


def split(log):
    """Return the dataset of a log, and how many steps its findings say were left out."""
    rows, flags = needed_arrays(log.arrays(), Path("log"))
    source = split_steps(rows, flags, Path("log"), keep_unfinished=log.keep, max_episode_steps=log.limit)
    dropped = [re.search(r"the last (\d+) steps", f.problem) for f in source.notes if f.kind == "unfinished tail"]
    data = TrajectoryDataset.in_memory(source.spec, source.trajectories)
    return data, sum(int(match[1]) for match in dropped)


def published_split(log):
    """Split as the script of Chen et al. (2021) does without timeouts: its counter is one step ahead after the first episode."""
    other = copy.copy(log)
    other.layout, other.limit, count = "both", None, 0
    other.timeouts = np.zeros(len(log.rewards), bool)
    for step, terminal in enumerate(log.terminals):
        other.timeouts[step] = not terminal and count == log.limit - 1
        count = 0 if terminal or other.timeouts[step] else count
        count += 1
    return split(other)


def judge(log, split=split):
    """Compare the split of a log with the oracle's; return the outcome."""
    episodes, left_out = oracle(log)
    try:
        data, dropped = split(log)
    except RLTransformerError as error:
        if episodes:
            raise
        return _refused(error, len(log.rewards))
    assert data.lengths.tolist() == [len(rewards) for rewards, _, _ in episodes]
    assert dropped == left_out
    assert data.num_steps + dropped == len(log.rewards)
    assert data.summary.terminated.tolist() == [terminated for _, terminated, _ in episodes]
    assert data.summary.truncated.tolist() == [truncated for _, _, truncated in episodes]
    assert np.asarray(data.observations)[:, 0].tolist() == list(range(data.num_steps))
    rewards = [reward for rewards, _, _ in episodes for reward in rewards]
    assert np.asarray(data.rewards).tolist() == rewards
    exact = np.array([fsum(rewards[step:]) for rewards, _, _ in episodes for step in range(len(rewards))])
    sizes = np.array([fsum(map(abs, rewards[step:])) for rewards, _, _ in episodes for step in range(len(rewards))])
    found = np.asarray(data.returns_to_go, np.float64)
    # Summed in float64 and stored in float32: half of its last digit, and what 60 sums lose of a float64's.
    assert (np.abs(found - exact) <= np.spacing(np.abs(exact).astype(np.float32)) + 1e-14 * sizes).all()
    return "split"


def _refused(error, steps):
    assert f"no episode of the {steps} steps ends" in error.problem
    assert error.fix
    return "refused"


def agree(lengths, seed, folder, *, trained):
    """Check that the same episodes are the same data in every format, and train the same weights."""
    folder.mkdir()
    data = random_data(lengths, seed)
    expected = None
    for number, (name, write) in enumerate(WRITERS.items()):
        uri = write(folder, data)
        assert open_trajectories(uri).fingerprint == data.fingerprint, name
        if trained:
            tensors = stored_tensors(
                train(tiny_config(folder / f"run-{number}", training={"train_steps": 3}, dataset={"uri": uri}))
            )
            expected = expected or tensors
            assert all(torch.equal(tensor, tensors[key]) for key, tensor in expected.items()), name
    return "equal"


def attack(root, number, seed, only):
    """Split ``number`` random logs, and write the episodes of some in every format; return the counts and what went wrong."""
    tally = Tally()
    os.environ["MINARI_DATASETS_PATH"] = str(root / "minari")
    with without_waiting(), silenced(), forked_readers():
        for which in range(number):
            log = Log(np.random.default_rng([seed, which]))
            tally.judge(f"flat logs, {log.layout}", f"{which}: {log}", lambda it=log: judge(it))
            lengths = [len(rewards) for rewards, _, _ in oracle(log)[0]]
            if which % WRITTEN_EVERY == 0:
                lengths = lengths or [len(log.rewards)]
                is_trained = which % TRAINED_EVERY == 0
                what = f"{which}: {lengths}"
                tally.judge(
                    "the same in every format",
                    what,
                    lambda n=lengths, w=which, t=is_trained: agree(n, w, root / "same", trained=t),
                )
                for folder in (root / "same", root / "minari"):
                    shutil.rmtree(folder, ignore_errors=True)
            if tally.is_enough:
                break
    return tally.parts, tally.wrong
