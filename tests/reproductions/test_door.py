"""Claims about the experiment on human demonstrations: how it judges, and that its environment is the data's."""

from pathlib import Path

import numpy as np
import pytest

from rl_transformer.errors import RLTransformerError
from rl_transformer.reproductions import door
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.trajectories import open_trajectories

SETUP = Setup(quick=False, seeds=5, output=Path("nowhere"))
LARGEST = 1500.0
MARGIN = 0.05 * LARGEST


def judged(**means):
    """Return the outcome of each rule for mean returns of DT and the other arms; the seeds differ a little."""
    arms = {"dt": 100.0, "bc-10": 100.0, "bc-25": 100.0, "bc-40": 100.0, "bc-100": 0.0}
    arms.update({name.replace("_", "-"): value for name, value in means.items()})
    measured = [
        {"arm": arm, "seed": seed, "mean": mean + (seed - 2) * (1 if arm == "dt" else 0.5), "largest": LARGEST}
        for seed in range(5)
        for arm, mean in arms.items()
    ]
    return {name: check.holds for name, check in door.Door().summarize(measured, SETUP).checks.items()}


def test_all_rules_hold_for_a_policy_that_is_as_good_as_the_best_share():
    assert judged() == {"learns": True, "rival": True, "clones": True}


def test_one_share_that_is_better_by_more_than_the_margin_decides():
    assert judged(bc_25=100 + 1.2 * MARGIN)["rival"] is False
    assert judged(bc_25=100 + MARGIN)["rival"] is None  # the interval lies across the margin
    assert judged(bc_25=100 + 0.8 * MARGIN)["rival"] is True


def test_an_interval_across_zero_decides_nothing():
    assert judged(bc_100=100.0)["clones"] is None
    assert judged(bc_100=110.0)["clones"] is False
    assert judged(dt=door.REFERENCE.random)["learns"] is None
    assert judged(dt=door.REFERENCE.random - 10)["learns"] is False


def test_scores_are_normalized_by_the_numbers_of_the_data_set():
    measured = [{"arm": arm, "seed": 0, "mean": 2940.578369140625, "largest": LARGEST} for arm in door.Door.arms]
    assert [row.score["mean"] for row in door.Door().make_rows(measured).values()] == pytest.approx([100.0] * 5)
    assert door.REFERENCE.normalized(-45.80706024169922) == 0


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RLTransformerError, match="gymnasium_robotics") as error:
        door.Door().prepare(SETUP)
    assert error.value.fix == "pip install 'rl-transformer[robotics]'"


def demonstrations():
    """Return the data set, or skip the test where it or its environment is missing."""
    pytest.importorskip("gymnasium_robotics", reason="the extra robotics installs it")
    try:
        return open_trajectories(door.DATA)
    except RLTransformerError:
        pytest.skip("needs the data set D4RL/door/human-v2 under MINARI_DATASETS_PATH")


@pytest.mark.slow
def test_the_environment_gives_the_rewards_of_the_demonstrations():
    """From the recorded first states, for 50 steps: later, contacts amplify differences of 1e-9 between simulators."""
    import h5py

    from rl_transformer.environments.making import make_environment
    from rl_transformer.trajectories.readers.minari import minari_root

    data = demonstrations()
    environment = make_environment(door.ENV_ID)
    with h5py.File(minari_root() / "D4RL/door/human-v2/data/main_data.hdf5") as file:
        for i in range(len(data)):
            recorded = data.trajectory(i)
            first = file[f"episode_{i}"].attrs
            state = {
                name: first[f"options/initial_state_dict/{name}"].astype(np.float64)
                for name in ("qpos", "qvel", "door_body_pos")
            }
            environment.reset(seed=0, options={"initial_state_dict": state})
            rewards = [float(environment.step(action)[1]) for action in recorded.actions[:50]]
            np.testing.assert_allclose(rewards, recorded.rewards[:50], atol=1e-3)


@pytest.mark.slow
def test_the_demonstrations_are_those_that_the_page_describes():
    data = demonstrations()
    assert (len(data), data.num_steps) == (25, 6729)
    returns = [data.trajectory(i).rewards.sum() for i in range(25)]
    within = [data.trajectory(i).rewards[:200].sum() for i in range(25)]
    lengths = [len(data.trajectory(i).rewards) for i in range(25)]
    assert (round(max(returns)), round(max(within)), min(lengths), max(lengths)) == (1505, 768, 223, 300)
    assert round(door.REFERENCE.normalized(max(within))) == 27
