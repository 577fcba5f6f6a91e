"""Claims about comparing data to learn from with data to judge by: what is shared is an error, what differs has a size."""

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.trajectories.splits import SPLIT_KINDS, compare_splits
from tests.trajectories.generated_sets import clinic, dataset, grid, linear_system


def kinds(train, test, **options):
    return {f.kind: f for f in compare_splits(dataset(train), dataset(test), **options) if f.kind in SPLIT_KINDS}


def parts(seed=0, make=linear_system):
    """Two parts of one recording that share nothing."""
    episodes = make(seed, count=80)
    return episodes[:40], episodes[40:]


@pytest.mark.parametrize("make", [linear_system, clinic])
@pytest.mark.parametrize("seed", range(4))
def test_two_honest_parts_share_nothing_and_do_not_differ(make, seed):
    assert not kinds(*parts(seed, make))


def test_episodes_and_steps_that_lie_in_both_are_errors_with_their_places():
    train, test = parts()
    test[3] = train[7]
    test[5] = {k: np.concatenate([v[:4], train[9][k][10:20]]) if np.ndim(v) else v for k, v in test[5].items()}
    found = kinds(train, test)
    assert set(found) == {"shared episodes", "shared steps"}
    assert found["shared episodes"].positions == [{"episode": 3, "train episode": 7}]
    assert found["shared steps"].positions == [{"episode": 5, "step": 4}]
    assert {f.level for f in found.values()} == {"error"}


def test_equal_episodes_on_a_grid_are_a_warning():
    episodes = grid(0, count=80, expert=1.0)
    assert kinds(episodes[:40], episodes[40:])["shared episodes"].level == "warning"


@pytest.mark.parametrize("seed", range(3))
def test_more_equal_episodes_on_a_grid_than_chance_explains_are_an_error(seed):
    """Such as those of two data sets that were collected with overlapping seeds."""
    train, test = (grid(first, count=80, expert=0.3) for first in (seed, seed + 100))
    again = [episode for episode in train if len(episode["rewards"]) >= 8][:20]

    def levels(episodes):
        found = compare_splits(dataset(train), dataset(episodes))
        return {each.level for each in found if each.kind == "shared episodes"}

    assert levels(test) <= {"warning"}
    assert "error" in levels([*test[:60], *again])


def test_one_frequent_path_is_one_coincidence():
    walks = grid(0, count=80, expert=0.0)
    longest = max(walks, key=lambda episode: len(episode["rewards"]))
    assert kinds(walks, [longest] * 40)["shared episodes"].level == "warning"


def test_entities_and_times_are_compared_if_they_were_kept():
    train, test = parts()
    for index, episode in enumerate([*train, *test]):
        episode["patient"] = np.full(len(episode["rewards"]), index)
        episode["recorded_at"] = 1e9 + 1e4 * index + np.arange(len(episode["rewards"]))
    assert not kinds(train, test, entity=["patient"])
    test[2]["patient"] = test[2]["patient"] * 0 + 5
    test[4]["recorded_at"] = test[4]["recorded_at"] - 1e4 * 44
    found = kinds(train, test, entity=["patient"])
    assert found["shared entities"].positions == [{"episode": 2}]
    assert found["overlapping times"].positions == [{"episode": 4, "step": 0}]
    assert kinds(train, test, time="recorded_at")["overlapping times"].field == "recorded_at"
    with pytest.raises(RLTransformerError, match="no column 'doctor'") as caught:
        kinds(train, test, entity=["doctor"])
    assert "patient, recorded_at" in caught.value.fix


@pytest.mark.parametrize("seed", range(3))
def test_another_policy_is_a_drift_of_behavior_and_not_of_observations(seed):
    train, _ = parts(seed)
    found = kinds(train, linear_system(seed, "random", count=80)[40:])
    assert float(found["behavior drift"].problem.split("curve of ")[1].split()[0]) > 0.8
    same = kinds(clinic(seed, count=60), clinic(seed + 50, count=60))
    assert "behavior drift" not in same


def test_other_observations_alone_are_no_drift_of_behavior():
    train, _ = parts()
    kept = sorted(linear_system(0, count=400)[80:], key=lambda e: e["observations"][:, 0].mean())[-40:]
    found = kinds(train, kept)
    assert "observation drift" in found
    assert "behavior drift" not in found


def test_rewards_that_changed_are_told_apart_from_returns():
    train, test = parts()
    for episode in test:
        episode["rewards"] = episode["rewards"] + 3
    assert {"return drift", "reward drift"} <= set(kinds(train, test))


def test_what_cannot_be_compared_is_said():
    train, test = parts()
    reasons = [f.problem for f in compare_splits(dataset(train[:5]), dataset(test)) if f.kind == "not compared"]
    assert any("5 and 40 episodes are too few" in reason for reason in reasons)
    # Of columns that nobody named there is nothing to say.
    assert not any("entities" in reason or "times" in reason for reason in reasons)
    with pytest.raises(RLTransformerError, match="observation spaces differ"):
        compare_splits(dataset(train), dataset(linear_system(0, size=4)))
