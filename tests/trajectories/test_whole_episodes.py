"""Claims about the readers of whole episodes: pickled lists as Chen et al. (2021) write them, and d3rlpy's dumps."""

import pickle

import h5py
import numpy as np
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from tests.toys import telling_data
from tests.trajectories.foreign_files import game_data, kzl_episodes, write_d3rlpy, write_d4rl, write_kzl


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return f"kzl-pickle:{path}"


def ends(data):
    return data.summary.terminated.tolist(), data.summary.truncated.tolist()


def kinds(data):
    return [finding.kind for finding in data.findings]


# kzl-pickle


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_episodes(tmp_path, protocol):
    data = open_trajectories(write_kzl(tmp_path / "a.pkl", telling_data(), protocol=protocol))
    assert data.fingerprint == telling_data().fingerprint


def test_what_the_published_script_writes_needs_the_time_limit(tmp_path):
    uri = write_kzl(tmp_path / "a.pkl", telling_data(), timeouts=False)
    data = open_trajectories(uri)
    assert ends(data) == ([True, False, True], [False, False, False])
    assert {"no timeouts", "unfinished episode"} <= set(kinds(data))
    note = next(finding for finding in data.findings if finding.kind == "no timeouts")
    assert note.problem.startswith("1 of 3 episodes have no terminal")
    assert "?max_episode_steps=N" in note.fix
    cut = open_trajectories(f"{uri}?max_episode_steps=7")
    assert cut.fingerprint == telling_data().fingerprint
    assert not {"no timeouts", "unfinished episode"} & set(kinds(cut))
    # Shorter ones without a terminal remain unfinished, and are told.
    later = open_trajectories(f"{uri}?max_episode_steps=8")
    assert ends(later) == ends(data)
    assert "unfinished episode" in kinds(later)


def test_a_terminal_at_the_time_limit_is_a_terminal(tmp_path):
    uri = write_kzl(tmp_path / "a.pkl", telling_data((7, 7)), timeouts=False)
    assert ends(open_trajectories(f"{uri}?max_episode_steps=7")) == ([True, False], [False, True])


@pytest.mark.parametrize(("steps", "problem"), [(6, "is 6, and an episode has 7 steps"), (0, "is 0"), (-1, "is -1")])
def test_a_time_limit_that_cannot_be_is_refused(tmp_path, steps, problem):
    uri = write_kzl(tmp_path / "a.pkl", telling_data(), timeouts=False)
    with pytest.raises(RLTransformerError, match=f"max_episode_steps: {problem}"):
        open_trajectories(f"{uri}?max_episode_steps={steps}")


def test_a_time_limit_beside_timeouts_is_refused(tmp_path):
    with pytest.raises(RLTransformerError, match="has no effect: the file has timeouts"):
        open_trajectories(f"{write_kzl(tmp_path / 'a.pkl', telling_data())}?max_episode_steps=7")


def test_lists_of_numbers_and_arrays_are_arrays(tmp_path):
    episodes = kzl_episodes(telling_data(), timeouts=True)
    for episode in episodes:
        episode["rewards"] = list(episode["rewards"])
        episode["observations"] = list(episode["observations"])
        episode["terminals"] = episode["terminals"].tolist()
    assert open_trajectories(write(tmp_path / "a.pkl", tuple(episodes))).fingerprint == telling_data().fingerprint


def test_a_dict_of_arrays_is_split_as_a_file_of_d4rl_is(tmp_path):
    write_d4rl(tmp_path / "a.hdf5", telling_data(), tail=2)
    with h5py.File(tmp_path / "a.hdf5") as file:
        arrays = {name: values[:] for name, values in file.items()}
    uri = write(tmp_path / "a.pkl", arrays)
    for options in ("", "?keep_unfinished=true"):
        expected = open_trajectories(f"d4rl:{tmp_path / 'a.hdf5'}{options}")
        read = open_trajectories(uri + options)
        assert read.fingerprint == expected.fingerprint
        assert kinds(read) == kinds(expected)


def test_integers_are_discrete_actions(tmp_path):
    data = game_data()
    episodes = [
        {"observations": np.array(e.observations), "actions": np.array(e.actions), "rewards": np.array(e.rewards)}
        for e in map(data.trajectory, range(len(data)))
    ]
    read = open_trajectories(write(tmp_path / "a.pkl", [{**e, "terminals": True} for e in episodes]))
    assert read.spec.action_space.n == 3
    assert read.spec.observation_space.is_image
    guess = next(finding for finding in read.findings if finding.kind == "guessed space")
    assert guess.fix.startswith("read the file yourself, and use TrajectoryDataset.from_episodes: pass action_space=")


ONE = {
    "observations": np.zeros((2, 3)),
    "actions": np.zeros((2, 1)),
    "rewards": np.zeros(2),
    "terminals": [False, True],
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, "holds a value of type int, not a list of dicts of arrays"),
        ([3], "episode 0: holds a value of type int"),
        ([], "holds no episode"),
        ([ONE, {**ONE, "name": "x"}], "episode 1: name: holds str, not numbers"),
        ([{**ONE, "further": {"a": 1}}], "episode 0: further: holds dict, not numbers"),
        ([{**ONE, "rewards": [[1], [2, 3]]}], "rewards: holds list"),
        ([{**ONE, "rewards": [np.zeros(1), np.zeros(2)]}], "rewards: is not an array of numbers of one shape"),
        ([{**ONE, "rewards": [10**30, 1]}], "rewards: is not an array of numbers"),
        ([{**ONE, "next_observations": np.zeros((3, 3))}], r"next_observations have the shape \(3, 3\)"),
        ([{**ONE, "terminals": [True, True]}], "terminals: is set at step 0 of 2"),
        ([{name: ONE[name] for name in ("actions", "rewards")}], "has no observations"),
        ({"observations": np.zeros((2, 3))}, "no array named actions, rewards, terminals"),
    ],
)
def test_what_holds_no_episodes_is_refused_by_name(tmp_path, value, problem):
    with pytest.raises(RLTransformerError, match=problem) as caught:
        open_trajectories(write(tmp_path / "a.pkl", value))
    assert str(tmp_path / "a.pkl") in str(caught.value)
    assert caught.value.fix


def test_one_episode_a_million_times_is_refused_before_it_is_copied(tmp_path):
    with pytest.raises(RLTransformerError, match="builds more bytes than the file holds"):
        open_trajectories(write(tmp_path / "a.pkl", [{**ONE, "observations": np.zeros((2, 9999))}] * 100_000))


def test_the_advice_for_other_files_works(tmp_path):
    """As the fix says: a script of the user's own, which trusts the file."""
    uri = write(tmp_path / "a.pkl", [{**ONE, "names": {"x"}}])
    with pytest.raises(RLTransformerError, match="EMPTY_SET") as caught:
        open_trajectories(uri)
    assert caught.value.fix.endswith("rlt.TrajectoryDataset.from_episodes(episodes).save(FOLDER)")
    episodes = [{name: e[name] for name in ONE} for e in pickle.loads((tmp_path / "a.pkl").read_bytes())]
    TrajectoryDataset.from_episodes(episodes).save(tmp_path / "store")
    assert open_trajectories(f"rlt:{tmp_path / 'store'}").num_steps == 2


def test_a_pickled_file_without_its_scheme_is_answered_with_its_uri(tmp_path):
    uri = write(tmp_path / "a.pkl", [ONE])
    with pytest.raises(RLTransformerError) as caught:
        open_trajectories(str(tmp_path / "a.pkl"))
    assert uri in caught.value.fix


# d3rlpy


def test_discrete_actions_and_images_of_d3rlpy_stay_what_they_are(tmp_path):
    read = open_trajectories(write_d3rlpy(tmp_path / "a.h5", game_data()))
    assert read.spec.action_space.n == 3
    assert ends(read) == ([True] * 3, [False] * 3)
    assert read.actions.tolist() == game_data().actions.tolist()
    assert np.asarray(read.observations).dtype == np.uint8
    assert np.array_equal(read.observations, game_data().observations)


def test_an_episode_of_d3rlpy_that_did_not_terminate_is_truncated(tmp_path):
    read = open_trajectories(write_d3rlpy(tmp_path / "a.h5", telling_data()))
    assert ends(read) == ([True, False, True], [False, True, False])


def test_columns_of_an_extended_d3rlpy_are_reported(tmp_path):
    uri = write_d3rlpy(tmp_path / "a.h5", telling_data())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["embeddings_0"] = np.zeros((4, 2))
    assert "the columns embeddings are not those of d3rlpy" in str(open_trajectories(uri).findings)


def replace(name, value):
    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replace("version", "2.0"), "has version 2.0 of d3rlpy's layout, and 2.1 is read"),
        (replace("version", None), "it has no version"),
        (replace("num_episodes", None), "it has no num_episodes"),
        (replace("num_episodes", 2.5), "num_episodes is of type float64"),
        (replace("num_episodes", 10**15), "episode 3: has no observations_3, actions_3, rewards_3, terminated_3"),
        (replace("num_episodes", 0), "holds no episode"),
        (replace("rewards_1", None), "episode 1: has no rewards_1"),
        (replace("rewards_1", np.zeros((7, 2))), r"episode 1: has rewards of shape \(7, 2\)"),
        (replace("rewards_1", 1.0), r"episode 1: has rewards of shape \(\)"),
        (replace("observations_1", np.zeros((8, 2))), "episode 1: has an observation more than rewards"),
        (replace("terminated_1", 3), "terminated: is array"),
        (lambda file: file.create_dataset("observations_0_0", data=[1.0]), "observations of several parts"),
        (lambda file: file.__setitem__("link", h5py.ExternalLink("/etc/passwd", "/")), "link is a link"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(tmp_path, change, problem):
    uri = write_d3rlpy(tmp_path / "a.h5", telling_data())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        change(file)
    with pytest.raises(RLTransformerError, match=problem) as caught:
        open_trajectories(uri)
    assert str(tmp_path / "a.h5") in str(caught.value)
    assert caught.value.fix


def test_a_file_of_d3rlpy_that_is_opened_as_d4rl_is_answered_with_its_uri(tmp_path):
    uri = write_d3rlpy(tmp_path / "a.h5", telling_data())
    with pytest.raises(RLTransformerError) as caught:
        open_trajectories(f"d4rl:{tmp_path / 'a.h5'}")
    assert uri in caught.value.fix
