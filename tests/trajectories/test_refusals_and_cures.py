"""Claims about refusals: each names a way out, and the way out works."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.trajectories.findings import notable
from tests.toys import point_data, telling_data, tiny_config
from tests.trajectories.foreign_files import buffers_of, write_d4rl, write_minari, write_minari_vectors
from tests.trajectories.samples import finding, from_vectors, kinds, vectors

LIMITS = gym.spaces.Box(-0.5, 0.5, (2,), np.float32)


@pytest.fixture
def minari_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


# Actions


def test_actions_beyond_their_bounds_are_clipped_on_request_and_counted(minari_root, tmp_path):
    with pytest.raises(RLTransformerError, match="outside the bounds") as caught:
        from_vectors(action_space=LIMITS)
    assert "clip_actions=True" in caught.value.fix
    clipped = from_vectors(action_space=LIMITS, clip_actions=True)
    outside = int((np.abs(vectors()["actions"]) > 0.5).any(axis=1).sum())
    found = finding(clipped, "clipped actions")
    assert (found.level, found.count) == ("warning", outside)
    assert f"{outside} of 6 actions" in found.problem
    assert found in notable(clipped.findings)
    np.testing.assert_array_equal(clipped.actions, np.clip(vectors()["actions"], -0.5, 0.5))
    # From a file: the URI of every format, and the option of a run.
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-0.003, 0.5, (1,), np.float32)
    data = telling_data()
    uri = write_minari("toy/beyond-v0", [shifted(b) for b in buffers_of(data)], *box)
    with pytest.raises(RLTransformerError, match=r"append \?clip_actions=true to the URI"):
        open_trajectories(uri)
    assert open_trajectories(f"{uri}?clip_actions=true").actions.min() == np.float32(-0.003)
    config = tiny_config(tmp_path / "run", dataset={"uri": uri, "clip_actions": True})
    assert load_policy(train(config)).spec.data.action_space.bounds[0] == np.float32(-0.003)
    assert main(["convert", uri, "--clip-actions", "--output", str(tmp_path / "store")]) == 0
    assert finding(open_trajectories(tmp_path / "store"), "clipped actions").level == "warning"


def shifted(buffer):
    return replace(buffer, actions=buffer.actions - np.float32(0.01))


def test_clipping_that_would_do_nothing_is_told():
    assert finding(
        from_vectors(action_space=gym.spaces.Box(-1, 1, (2,)), clip_actions=True), "clipped actions"
    ).level == ("info")
    with pytest.raises(RLTransformerError, match="no bounds to clip them to"):
        from_vectors(vectors(actions=np.array([0, 1, 0, 1, 1, 0])), clip_actions=True)


def declared(fix):
    """Return the space that a fix names."""
    expression = re.search(r"gymnasium\.spaces\.((?:Multi)?Discrete\([^)]*\))", fix).group(1)
    name, arguments = expression.split("(", 1)
    numbers = re.fullmatch(r"(.+), start=(.+)\)", arguments).groups()
    sizes, starts = (np.array(re.findall(r"-?\d+", text), int) for text in numbers)
    return (
        gym.spaces.Discrete(sizes[0], start=starts[0])
        if name == "Discrete"
        else gym.spaces.MultiDiscrete(sizes, start=starts)
    )


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        (np.array([-1, 0, 1, 1, 0, -1]), "3 discrete from -1"),
        (np.array([[-1, 2], [0, 0], [1, -3], [1, 0], [0, 1], [1, 1]]), "3 x 6 discrete"),
        (np.array([0, 1, 0, 1, 1, 0]), "2 discrete"),
    ],
)
def test_integer_actions_may_begin_below_zero(actions, text):
    data = from_vectors(vectors(actions=actions))
    assert str(data.spec.action_space) == text
    np.testing.assert_array_equal(data.trajectory(0).actions, actions)
    again = from_vectors(vectors(actions=actions), action_space=declared(finding(data, "guessed space").fix))
    assert again.spec.action_space == data.spec.action_space


@pytest.mark.parametrize(
    "actions", [np.array([0, 1, 2.0, 1, 0, 3]), np.array([[0.0], [2], [1], [1], [0], [2]]), np.eye(6)[:, :2]]
)
def test_whole_numbers_stored_as_floats_are_said_to_be_perhaps_discrete(actions):
    found = finding(from_vectors(vectors(actions=actions)), "guessed space")
    assert found.level == "warning"
    assert "whole numbers stored as floats" in found.problem
    cured = from_vectors(vectors(actions=actions), action_space=declared(found.fix))
    assert cured.spec.action_space.kind in ("discrete", "multi_discrete")
    assert "whole" not in finding(from_vectors(), "guessed space").problem


def test_integers_that_are_hardly_discrete_actions_are_refused_with_two_ways_out():
    amounts = np.array([5, 2_000_000_000, 17, 3, 8, 1])
    with pytest.raises(RLTransformerError, match="integers from 0 to 2000000000") as caught:
        from_vectors(vectors(actions=amounts))
    assert "spaces.Box(low, high, dtype=np.int64)" in caught.value.fix
    data = from_vectors(vectors(actions=amounts), action_space=gym.spaces.Box(0, 2**31, (), np.int64))
    assert data.spec.action_space.is_continuous
    names = np.unique(amounts, return_inverse=True)[1]
    assert str(from_vectors(vectors(actions=names)).spec.action_space) == "6 discrete"


def test_integers_that_are_taken_as_numbers_are_told():
    states = np.array([3, 7, 1, 0, 2, 2])
    found = finding(from_vectors(vectors(observations=states), action_space=LIMITS, clip_actions=True), "guessed space")
    assert (found.level, found.field) == ("info", "observations")
    assert "Discrete(8)" in found.fix
    declared_states = from_vectors(vectors(observations=states), observation_space=gym.spaces.Discrete(8))
    assert declared_states.observations.shape == (6, 8)


# Episodes


def test_one_dict_in_place_of_a_list_is_named():
    with pytest.raises(RLTransformerError, match="the episodes are one dict, not a list") as caught:
        TrajectoryDataset.from_episodes(vectors())
    assert "from_episodes([episode])" in caught.value.fix
    with pytest.raises(RLTransformerError, match=r"episodes\[0\]: is of type tuple, not a dict of arrays"):
        TrajectoryDataset.from_episodes([(1, 2, 3)])
    with pytest.raises(RLTransformerError, match="the episodes are of type TrajectoryDataset"):
        TrajectoryDataset.from_episodes(from_vectors())


def test_rewards_in_a_column_are_taken_and_other_shapes_blame_the_rewards():
    column = from_vectors(vectors(rewards=np.ones((6, 1))))
    assert column.fingerprint == from_vectors().fingerprint
    with pytest.raises(RLTransformerError) as caught:
        from_vectors(vectors(rewards=np.ones((1, 6))))
    assert caught.value.problem == "episode 0, rewards: has shape (1, 6), not one number per step"


PARTS = gym.spaces.Dict(
    {"at": gym.spaces.Box(-1, 1, (2,), np.float32), "item": gym.spaces.Discrete(3), "mission": gym.spaces.Text(20)}
)
NUMBERS = gym.spaces.Dict({name: PARTS[name] for name in ("at", "item")})


def test_nested_observations_are_taken_one_per_step():
    at = np.random.default_rng(0).uniform(-1, 1, (7, 2)).astype(np.float32)
    item = np.arange(7) % 3
    stacked = from_vectors(vectors(observations={"at": at, "item": item}), observation_space=NUMBERS)
    steps = [{"at": a, "item": i} for a, i in zip(at, item, strict=True)]
    for given in (steps, tuple(steps), np.array(steps, dtype=object)):
        data = from_vectors(vectors(observations=given), observation_space=NUMBERS)
        assert data.fingerprint == stacked.fingerprint
        assert data.summary.final_observations is not None
    pair = gym.spaces.Tuple((PARTS["at"], PARTS["item"]))
    one_per_step = from_vectors(vectors(observations=list(zip(at, item, strict=True))), observation_space=pair)
    by_part = from_vectors(vectors(observations=(at, item)), observation_space=pair)
    assert one_per_step.fingerprint == by_part.fingerprint
    with pytest.raises(RLTransformerError, match="its steps do not have the same parts"):
        from_vectors(vectors(observations=[*steps[:-1], {"at": at[0]}]), observation_space=NUMBERS)


def test_data_without_rewards_is_for_behavior_cloning(tmp_path):
    data = from_vectors(vectors(rewards=None))
    found = finding(data, "no rewards")
    assert found.level == "warning"
    assert "a different target return has no meaning" in found.problem
    policy = load_policy(train(tiny_config(tmp_path / "run", model={"conditions": []}), dataset=data))
    assert policy.session().act(np.zeros(3)).shape == (2,)
    with pytest.raises(RLTransformerError, match="1 of 2 episodes have no rewards"):
        from_vectors(vectors(), vectors(rewards=None))
    for name in ("reward", "rews", "returns"):
        with pytest.raises(RLTransformerError, match="has no rewards; it has actions, observations"):
            from_vectors(vectors(rewards=None, **{name: np.ones(6)}))


def test_rewards_that_are_all_zero_are_reported(tmp_path):
    zeros = {"rewards": np.zeros(6)}
    assert "no rewards" in kinds(from_vectors(vectors(**zeros), vectors(seed=1, **zeros)))
    assert "no rewards" not in kinds(from_vectors(vectors(**zeros), vectors(seed=1)))


def test_a_very_long_episode_is_noted_with_a_cure_that_works(tmp_path):
    long = from_vectors(vectors(60_000))
    found = finding(long, "long episode")
    assert "has up to 60000 steps" in found.problem
    assert "model.max_ep_len" in found.fix
    policy = load_policy(train(tiny_config(tmp_path / "run", model={"max_ep_len": 4096}), dataset=long))
    assert policy.spec.model.max_ep_len == 4096
    assert "long episode" not in kinds(from_vectors(vectors(1000)))


def test_numbers_that_are_not_finite_are_reported_in_further_columns_and_final_observations():
    observations = np.zeros((7, 3), np.float32)
    observations[6, 1] = np.nan
    data = from_vectors(vectors(observations=observations, cost=np.array([0, 0, np.inf, 0, 0, 0])))
    assert {f.field for f in data.findings if f.kind == "not finite"} == {"final_observation", "cost"}


# Parts of observations


class MissionEnv(gym.Env):
    """An environment like MiniGrid's: parts of numbers, and a text; the reward is 1 for action 1; 5 steps."""

    def __init__(self, render_mode=None):
        self.observation_space = PARTS
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        return self._look(), float(action), self.steps == 5, False, {}

    def _look(self):
        at = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"at": at, "item": int(self.np_random.integers(3)), "mission": "gotothedoor"}


MISSION = "tests/Mission-v0"
if MISSION not in gym.registry:
    gym.register(MISSION, entry_point=MissionEnv)


def mission_episodes(num_episodes=4):
    environment = MissionEnv()
    for seed in range(num_episodes):
        observations = [environment.reset(seed=seed)[0]]
        actions = np.random.default_rng(seed).integers(0, 2, 5)
        observations += [environment.step(action)[0] for action in actions]
        yield {"observations": observations, "actions": actions, "rewards": actions, "terminated": True}


def mission_data(**options):
    spaces = {"observation_space": PARTS, "action_space": gym.spaces.Discrete(2)}
    return TrajectoryDataset.from_episodes(mission_episodes(), **spaces, **options)


def test_parts_of_observations_are_chosen_for_data_and_acting_alike(tmp_path):
    with pytest.raises(RLTransformerError, match="the part 'mission' of the observations is text") as caught:
        mission_data()
    assert 'observe=["at", "item"]' in caught.value.fix
    data = mission_data(observe=["at", "item"])
    assert data.spec.observation_space.flat_dim == 5
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    live = MissionEnv().reset(seed=0)[0]
    assert policy.session(3.0).act(live) in (0, 1)
    assert policy.session(3.0).act({"at": live["at"], "item": live["item"]}) in (0, 1)
    with pytest.raises(RLTransformerError, match="has 3 parts, and the space has 2: at, item; unknown: other"):
        policy.session(3.0).act({**live, "other": 1})
    assert len(evaluate(policy, env_id=MISSION, target_returns=[3.0], num_episodes=2).targets[0].episode_returns) == 2
    # What the policy records has the same parts.
    arguments = ["collect", MISSION, "--num-episodes", "2", "--policy", str(tmp_path / "run")]
    assert main([*arguments, "--output", str(tmp_path / "more")]) == 0
    assert open_trajectories(tmp_path / "more").spec.observation_space == data.spec.observation_space


def test_the_same_parts_from_every_format_are_the_same_data(minari_root, tmp_path):
    item = mission_data(observe=["it*"])
    assert item.observations.shape == (20, 3)
    mission_data(observe=["at", "item"]).save(tmp_path / "store")
    store = f"rlt:{tmp_path / 'store'}"
    data = mission_data(observe=["at", "item"])
    episodes = [
        {**e, "observations": {n: [o[n] for o in e["observations"]] for n in ("at", "item")}}
        for e in mission_episodes()
    ]
    assert (
        TrajectoryDataset.from_episodes(
            episodes, observation_space=NUMBERS, action_space=gym.spaces.Discrete(2)
        ).fingerprint
        == data.fingerprint
    )
    for read in (open_trajectories(store, observe=["item"]), open_trajectories(f"{store}?observe=item")):
        assert read.fingerprint == item.fingerprint
        assert read.statistics.mean.tolist() == item.statistics.mean.tolist()
        assert read.spec.observation_space.ignored == ("mission", "at")
    assert main(["convert", store, "--observe", "item", "--output", str(tmp_path / "item")]) == 0
    assert open_trajectories(tmp_path / "item").fingerprint == item.fingerprint
    config = tiny_config(tmp_path / "run", dataset={"uri": store, "observe": ["item"]})
    policy = load_policy(train(config))
    assert policy.session(3.0).act(MissionEnv().reset(seed=0)[0]) in (0, 1)
    assert policy.spec.model.state_dim == 3


def test_a_picture_among_other_parts_can_be_used_alone():
    space = gym.spaces.Dict({"pixels": gym.spaces.Box(0, 255, (40, 40, 3), np.uint8), "at": gym.spaces.Discrete(2)})
    observations = {
        "pixels": np.random.default_rng(0).integers(0, 255, (7, 40, 40, 3), np.uint8),
        "at": np.ones(7, int),
    }
    both = from_vectors(vectors(observations=observations), observation_space=space)
    assert both.observations.shape == (6, 3 * 40 * 40 + 4 * 2)
    data = from_vectors(vectors(observations=observations), observation_space=space, observe=["pixels"])
    assert data.observations.shape == (6, 3, 40, 40)


def test_parts_that_do_not_exist_are_refused_by_name():
    with pytest.raises(RLTransformerError, match="no part of the observations matches 'itm'") as caught:
        mission_data(observe=["itm"])
    assert caught.value.fix == "choose among at, item, mission"
    with pytest.raises(RLTransformerError, match="have no parts to choose from"):
        from_vectors(observe=["at"])


def test_a_live_observation_out_of_its_space_is_answered_with_something_that_can_be_done(tmp_path):
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=mission_data(observe=["item"])))
    for item in (3, -1, 1.5):
        with pytest.raises(RLTransformerError, match=f"{item} is not one of the 3 values from 0") as caught:
            policy.session(3.0).act({"item": item})
        assert "compare the environment and its wrappers" in caught.value.fix


# Files


def test_a_d4rl_file_without_timeouts_is_read_and_its_tail_reported(tmp_path):
    uri = write_d4rl(tmp_path / "d.hdf5", telling_data(lengths=(4, 7, 2)), tail=3, drop=("timeouts",))
    data = open_trajectories(uri)
    assert data.lengths.tolist() == [4, 9]  # the time limit of the second episode is not in the file
    assert "last 3 steps" in finding(data, "unfinished tail").problem
    found = finding(data, "no timeouts")
    assert found.level == "warning"
    assert "?max_episode_steps=N" in found.fix
    assert open_trajectories(f"{uri}?max_episode_steps=7").lengths.tolist() == [4, 7, 2]
    both = write_d4rl(tmp_path / "both.hdf5", telling_data())
    with pytest.raises(RLTransformerError, match="has no effect: the file has timeouts"):
        open_trajectories(f"{both}?max_episode_steps=7")


@pytest.mark.parametrize("scheme", ["", "rlt:"])
def test_a_file_without_its_scheme_is_answered_with_the_uri_that_opens_it(scheme, minari_root, tmp_path, capsys):
    data = telling_data()
    uris = {
        str(tmp_path / "d.hdf5"): write_d4rl(tmp_path / "d.hdf5", data),
        str(minari_root / "toy/telling-v0"): write_minari_vectors("toy/telling-v0", data),
        str(minari_root / "toy/telling-v0/data/main_data.hdf5"): "minari:toy/telling-v0",
        "toy/telling-v0": "minari:toy/telling-v0",
    }
    for path, expected in uris.items():
        assert main(["inspect", scheme + path]) == 2
        assert f"fix: write it as {expected}\n" in capsys.readouterr().err
        assert open_trajectories(expected).fingerprint == data.fingerprint
    data.save(tmp_path / "store")
    for wrong in (f"d4rl:{tmp_path / 'store'}", scheme + str(tmp_path / "store" / "rewards.npy")):
        with pytest.raises(RLTransformerError) as caught:
            open_trajectories(wrong)
        assert caught.value.fix == f"write it as rlt:{tmp_path / 'store'}"
    (tmp_path / "log.csv").write_text("a,b\n")
    with pytest.raises(RLTransformerError, match="is a table, not a store") as caught:
        open_trajectories(scheme + str(tmp_path / "log.csv"))
    assert caught.value.fix == f"write it as csv:{tmp_path / 'log.csv'}"
    (tmp_path / "log.txt").write_text("a,b\n")
    with pytest.raises(RLTransformerError, match="is a file of no known format") as caught:
        open_trajectories(scheme + str(tmp_path / "log.txt"))
    assert "d4rl:FILE.hdf5" in caught.value.fix


def test_a_file_that_another_program_writes_is_said_to_be_locked(tmp_path):
    program = f"import h5py, sys; f = h5py.File({str(tmp_path / 'd.hdf5')!r}, 'w'); f['x'] = [1]; print('open'); sys.stdout.flush(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(RLTransformerError, match="is locked, because another program has it open") as caught:
            open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}")
        writer.communicate("\n")
    assert "close the program that writes it" in caught.value.fix
    with pytest.raises(RLTransformerError, match="no array named observations"):  # the cure, for the lock
        open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}")


def test_data_of_a_newer_minari_is_said_to_be_that(minari_root):
    uri = write_minari_vectors("toy/telling-v0", telling_data())
    metadata = minari_root / "toy/telling-v0/data/metadata.json"
    metadata.write_text(re.sub(r'"minari_version": "[^"]+"', '"minari_version": "99.0.0"', metadata.read_text()))
    with pytest.raises(RLTransformerError, match=r"Minari 99\.0\.0") as caught:
        open_trajectories(uri)
    assert "pip install --upgrade minari" in caught.value.fix
    assert "download" not in caught.value.fix


def test_an_option_that_a_reader_does_not_have_is_refused(minari_root, tmp_path):
    uris = [write_minari_vectors("toy/telling-v0", telling_data())]
    uris.append(f"rlt:{telling_data().save(tmp_path / 's')}")
    for uri in uris:
        with pytest.raises(RLTransformerError, match="has no option 'keep_unfinished'") as caught:
            open_trajectories(f"{uri}?keep_unfinished=true")
        assert caught.value.fix.startswith("remove it")
        open_trajectories(uri)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    """Reported for streamlit."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = point_data(4)
    assert data.save("~/store") == tmp_path / "store"
    write_d4rl(tmp_path / "d.hdf5", telling_data(), tail=2)
    for uri in ("rlt:~/store", "~/store", Path("~/store"), "rlt:~/store?verify=true"):
        assert open_trajectories(uri).fingerprint == data.fingerprint
    assert open_trajectories("d4rl:~/d.hdf5?keep_unfinished=true").num_steps == 15
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    policy.save("~/policy")
    assert load_policy("~/policy").content_hash == load_policy("~/run").content_hash
    policy.model.save_pretrained("~/model")
    assert type(policy.model).from_pretrained("~/model").config.state_dim == 2
    assert not (tmp_path / "~").exists()
    with pytest.raises(RLTransformerError, match="home directory"):
        open_trajectories("rlt:~nobody-of-this-name/store")


# Python


def test_a_dataset_is_saved_as_a_store_and_shows_what_it_is(tmp_path):
    data = telling_data()
    folder = data.save(tmp_path / "store")
    again = open_trajectories(f"rlt:{folder}")
    assert again.fingerprint == data.fingerprint
    assert again.findings == data.findings
    text = repr(again)
    assert "3 trajectories, 13 steps" in text
    assert "observations box (2,), actions box (1,)" in text
    with pytest.raises(RLTransformerError, match="exists already"):
        data.save(tmp_path / "store")
    assert "1 warning" in repr(from_vectors(vectors(rewards=np.zeros(6)), action_space=gym.spaces.Box(-1, 1, (2,))))


def test_a_final_observation_that_repeats_the_last_is_no_finding_where_observations_stand_still():
    """In a maze a step against a wall changes nothing, and the last step may be one."""
    from rl_transformer import TrajectoryDataset

    def kinds(stands_still):
        random = np.random.default_rng(0)
        episodes = []
        for _ in range(6):
            observations = random.normal(size=(11, 2)).astype(np.float32)
            if stands_still:
                observations[3] = observations[2]
            observations[10] = observations[9]
            actions = random.integers(0, 3, 10)
            rewards = random.normal(size=10)
            episodes.append({"observations": observations, "actions": actions, "rewards": rewards, "terminated": True})
        return {finding.kind for finding in TrajectoryDataset.from_episodes(episodes).findings}

    assert "repeated final observation" in kinds(stands_still=False)
    assert "repeated final observation" not in kinds(stands_still=True)
