"""Claims about findings of single signals: what is suspicious is named with its place, and ordinary signals are not."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer.trajectories import signal_checks
from rl_transformer.trajectories.findings import MAX_POSITIONS
from rl_transformer.trajectories.open import read_trajectories
from rl_transformer.trajectories.store import write_store
from tests.toys import camera_data, point_data, toll_data
from tests.trajectories.samples import finding, from_vectors, kinds, vectors

KINDS = {"outlier", "frozen signal", "saturated signal"}


def episodes(change=lambda e, episode: None, count=6, length=40):
    made = [vectors(length, seed=e) for e in range(count)]
    for e, episode in enumerate(made):
        change(e, episode)
    return made


def at(episode, step, feature):
    return {"episode": episode, "step": step, "feature": feature}


@pytest.mark.parametrize("value", [1e30, -1e30, 3e6])
@pytest.mark.parametrize("name", ["observations", "rewards"])
def test_an_outlier_is_named_with_its_place(name, value):
    def plant(e, episode):
        if e == 3:
            episode[name].reshape(40, -1)[17, -1] = value

    found = finding(from_vectors(*episodes(plant)), "outlier")
    assert (found.level, found.field, found.count) == ("warning", name, 1)
    assert found.positions == [at(3, 17, 2 if name == "observations" else 0)]


def test_every_outlier_counts_and_each_feature_has_a_place():
    def plant(e, episode):
        episode["observations"][e, 1] = 1e20
        if e == 5:
            episode["observations"][9, 2] = 1e25

    found = finding(from_vectors(*episodes(plant, length=200)), "outlier")
    assert found.count == 7
    assert found.positions == [at(0, 0, 1), at(5, 9, 2)]


def test_rest_before_motion_heavy_tails_and_large_units_are_ordinary():
    def plant(e, episode):
        random = np.random.default_rng(e)
        episode["observations"][:, 0] = 1e-17 if e else random.normal(size=40)  # at rest, but for one episode
        episode["observations"][:, 1] = random.standard_cauchy(40)
        episode["observations"][:, 2] *= 1e9

    assert not kinds(from_vectors(*episodes(plant))) & KINDS


@pytest.mark.parametrize("length", [10, 40])
def test_a_signal_that_stands_still_in_some_episodes_is_named(length):
    def plant(e, episode):
        if e in (2, 4):
            episode["observations"][:, 1] = 0.25

    found = finding(from_vectors(*episodes(plant, length=length)), "frozen signal")
    assert (found.level, found.field, found.count) == ("warning", "observations", 2)
    assert found.positions == [{"episode": 2, "feature": 1}, {"episode": 4, "feature": 1}]


def test_goals_switches_and_short_episodes_are_not_frozen():
    def plant(e, episode):
        episode["observations"][:, 0] = e  # a goal: constant in every episode
        episode["observations"][:, 1] = np.arange(40) > 30 if e % 2 else 0  # a door that is opened, or not

    assert "frozen signal" not in kinds(from_vectors(*episodes(plant)))
    short = episodes(lambda e, episode: episode["observations"].fill(e == 1), length=5)
    assert "frozen signal" not in kinds(from_vectors(*short))


@pytest.mark.parametrize("side", [-1, 1])
def test_a_saturated_signal_is_named_with_its_share(side):
    def plant(e, episode):
        values = side * episode["observations"][:, 0] + 0.3
        episode["observations"][:, 0] = side * np.minimum(values, -0.1)

    data = from_vectors(*episodes(plant))
    found = finding(data, "saturated signal")
    assert found.positions == [{"feature": 0}]
    share = np.isclose(data.observations[:, 0], -0.1 * side).mean()
    assert f"in {share:.0%} of the steps" in found.problem
    assert ("largest" if side > 0 else "smallest") in found.problem


def test_contacts_switches_and_rare_clips_are_not_saturated():
    def plant(e, episode):
        random = np.random.default_rng(e)
        episode["observations"][:, 0] = np.maximum(random.normal(size=40) - 1, 0)  # a force: mostly without contact
        episode["observations"][:, 1] = random.random(40) < 0.8  # a switch
        episode["observations"][:, 2] = np.clip(episode["observations"][:, 2], -1, 1)  # 16 % at each side

    assert not kinds(from_vectors(*episodes(plant))) & KINDS


def test_actions_at_their_bounds_are_ordinary_and_outliers_among_them_are_not():
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    bang = episodes(lambda e, episode: episode.update(actions=np.sign(episode["actions"])))
    assert not kinds(from_vectors(*bang, action_space=box)) & KINDS
    bang[1]["actions"][3, 0] = 1e12
    assert finding(from_vectors(*bang, action_space=box), "outlier").positions == [at(1, 3, 0)]


@pytest.mark.parametrize("make", [point_data, toll_data, camera_data])
def test_ordinary_data_has_no_such_finding_and_written_data_has_the_same_ones(make, tmp_path):
    data = make()
    assert not kinds(data) & KINDS
    store = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
    assert not kinds(read_trajectories(store.location)) & KINDS


def test_episodes_that_are_looked_at_together_are_counted_as_one_by_one():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, 300)
    offsets = np.concatenate([[0], lengths.cumsum()])
    values = random.integers(0, 3, (offsets[-1], 3)).astype(np.float32)
    for index in range(0, 300, 3):
        values[offsets[index] : offsets[index + 1], index % 2] = 1.0
    signal = signal_checks._Signal.of_width(3)
    signal_checks._add_changes(signal, 5, offsets, values)
    frozen, lively, places, count = np.zeros(3, int), np.zeros(3, int), [], 0
    for index, length in enumerate(lengths):
        if length < signal_checks._LONG:
            continue
        rows = values[offsets[index] : offsets[index + 1]]
        share = np.array([np.mean(rows[1:, i] != rows[:-1, i]) for i in range(3)])
        count += 1
        lively += share >= signal_checks._LIVELY
        frozen += share == 0
        places += [
            {"episode": 5 + index, "feature": int(i)} for i in np.flatnonzero(share == 0) if frozen[i] <= MAX_POSITIONS
        ]
    assert frozen[0] > MAX_POSITIONS
    assert (signal.num_long, signal.frozen.tolist(), signal.lively.tolist()) == (
        count,
        frozen.tolist(),
        lively.tolist(),
    )
    assert signal.frozen_places == places
