"""Claims about the reader of replay buffers: every step is where it was played, and damage is named."""

import gzip
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.trajectories import Space
from rl_transformer.trajectories.readers.dqn_replay_buffers import MEMBERS
from rl_transformer.trajectories.replay_writer import write_replay
from rl_transformer.trajectories.store import write_store
from rl_transformer.windows.gathering import ConditionColumn, WindowGatherer
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import point_data
from tests.trajectories.foreign_files import game_data, write_replay_buffer


def random_buffer(random, length, *, end_share=0.1, side=36):
    """Columns of a buffer; the first pixels of a frame are its place in the buffer."""
    frames = random.integers(0, 256, (length, side, side)).astype(np.uint8)
    frames[:, 0, 0] = np.arange(length) % 251
    return {
        "observation": frames,
        "action": random.integers(0, 4, length).astype(np.int32),
        "reward": random.integers(-1, 2, length).astype(np.float32),
        "terminal": (random.random(length) < end_share).astype(np.uint8),
    }


def naive_episodes(columns):
    """Return (episodes, steps after the last terminal) of a buffer, step by step."""
    episodes = []
    episode = []
    for step in range(len(columns["reward"])):
        episode.append({name: values[step] for name, values in columns.items()})
        if columns["terminal"][step]:
            episodes.append(episode)
            episode = []
    return episodes, len(episode)


def assert_same(data, episodes):
    assert len(data) == len(episodes)
    for index, episode in enumerate(episodes):
        read = data.trajectory(index)
        assert read.observations.dtype == np.uint8
        assert np.array_equal(read.observations[:, 0], [step["observation"] for step in episode])
        assert read.actions.tolist() == [step["action"] for step in episode]
        assert read.rewards.tolist() == [step["reward"] for step in episode]
        assert (read.terminated, read.truncated) == (True, False)


@pytest.fixture
def folder(tmp_path):
    """Three buffers of Breakout, with different tails."""
    folder = tmp_path / "Breakout/1/replay_logs"
    random = np.random.default_rng(0)
    for number in range(3):
        write_replay_buffer(folder, number, random_buffer(random, 300 + 7 * number))
    return folder


def columns_of(folder, number):
    columns = {}
    for member in MEMBERS:
        with gzip.open(folder / f"$store$_{member}_ckpt.{number}.gz") as file:
            columns[member] = np.load(file)
    return columns


def test_every_step_is_read_as_it_was_written_and_tails_are_counted(folder):
    data = open_trajectories(f"dqn-replay:{folder}")
    parts = [naive_episodes(columns_of(folder, number)) for number in range(3)]
    assert_same(data, [episode for episodes, _ in parts for episode in episodes])
    (tails,) = [finding for finding in data.findings if finding.kind == "unfinished tail"]
    for number, (_, tail) in enumerate(parts):
        assert f"{tail} of buffer {number}" in tails.problem
    assert tails.count == sum(tail for _, tail in parts)
    assert data.spec.action_space.n == 4
    assert data.spec.env_id == "ALE/Breakout-v5"
    # As it is published: the folder of the game holds one folder per run.
    assert open_trajectories(f"dqn-replay:{folder.parent}").fingerprint == data.fingerprint


def test_a_store_of_the_same_buffers_is_the_same_data(folder, tmp_path):
    data = open_trajectories(f"dqn-replay:{folder}")
    stored = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
    assert stored.fingerprint == data.fingerprint


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_windows_stacks_timesteps_and_returns_equal_a_naive_loop(seed, lengths, tmp_path_factory):
    """At every boundary: of episodes, of buffers and of the chunks that are read at once (T-16, T-17, T-19)."""
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("replay")
    episodes = []
    for number, length in enumerate(lengths):
        columns = random_buffer(random, length, end_share=float(random.choice([0.05, 0.3, 1.0])))
        columns["terminal"][random.integers(0, length)] = 1  # at least one episode
        write_replay_buffer(folder, number, columns)
        episodes += naive_episodes(columns)[0]
    data = open_trajectories(f"dqn-replay:{folder}")
    assert_same(data, episodes)
    rows = [(number, step) for number, episode in enumerate(episodes) for step in range(len(episode))]
    chosen = np.unique(random.integers(0, len(rows), 8))
    index = WindowIndex(chosen, np.array([rows[row][0] for row in chosen]))
    labels = [ConditionColumn(data.returns_to_go, 1.0)]
    plain = Normalizer(None, None, None, None, None, None)
    gatherer = WindowGatherer(
        data, window_length=5, conditions=labels, max_timesteps=1000, normalizer=plain, frame_stack=4
    )
    batch = gatherer.gather(index)
    for place, row in enumerate(chosen):
        number, first = rows[row]
        steps = range(first, min(first + 5, len(episodes[number])))
        assert batch.valid_mask[place].tolist() == [True] * len(steps) + [False] * (5 - len(steps))
        for offset, step in enumerate(steps):
            assert_step(batch, place, offset, episodes[number], step)


def assert_step(batch, place, offset, episode, step):
    """Compare one step of a window with a loop over the frames and rewards of its episode."""
    stack = [episode[max(0, step - age)]["observation"] for age in (3, 2, 1, 0)]
    assert np.array_equal(batch.states[place, offset], stack)
    assert int(batch.timesteps[place, offset]) == step
    assert int(batch.actions[place, offset]) == episode[step]["action"]
    assert float(batch.conditions[place, offset, 0]) == sum(later["reward"] for later in episode[step:])


def test_drawn_episodes_are_whole_distinct_and_repeated_by_the_seed(folder):
    everything = Counter(
        (len(episode), int(episode[0]["observation"][0, 0]), float(np.sum([step["reward"] for step in episode])))
        for number in range(3)
        for episode in naive_episodes(columns_of(folder, number))[0]
    )
    uri = f"dqn-replay:{folder}?steps=200&episodes_per_draw=2&seed="
    drawn = open_trajectories(f"{uri}3")
    assert 200 <= drawn.num_steps < 200 + max(length for length, _, _ in everything)
    seen = Counter(
        (len(t.rewards), int(t.observations[0, 0, 0, 0]), float(t.rewards.sum()))
        for t in (drawn.trajectory(i) for i in range(len(drawn)))
    )
    assert not seen - everything  # each once, none cut
    assert open_trajectories(f"{uri}3").fingerprint == drawn.fingerprint
    assert open_trajectories(f"{uri}4").fingerprint != drawn.fingerprint
    with pytest.raises(RLTransformerError, match="are to be drawn") as caught:
        open_trajectories(f"dqn-replay:{folder}?steps=100000")
    assert "steps out to read everything" in caught.value.fix


def test_only_the_last_buffers_are_used_if_asked(folder):
    data = open_trajectories(f"dqn-replay:{folder}?buffers=1")
    assert_same(data, naive_episodes(columns_of(folder, 2))[0])
    with pytest.raises(RLTransformerError, match="buffers is 4"):
        open_trajectories(f"dqn-replay:{folder}?buffers=4")


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def rewrite(change):
    def damage(path):
        with gzip.open(path) as file:
            values = np.load(file)
        with gzip.open(path, "wb") as file:
            np.save(file, change(values))

    return damage


def set_action(value):
    def change(values):
        values[5] = value
        return values

    return change


def replace_by_text(path):
    path.write_bytes(gzip.compress(b"not an array"))


def add_rows(path):
    with gzip.open(path, "rb") as file:
        content = file.read()
    with gzip.open(path, "wb") as file:
        file.write(content + b"more")


DAMAGE = {
    "cut off": ("observation", cut, "is damaged or was cut off"),
    "flipped": ("reward", flip, "is damaged or was cut off|is not a gzipped|goes on after"),
    "missing": ("terminal", lambda path: path.unlink(), "is missing"),
    "no array": ("action", replace_by_text, "is not a gzipped .npy file"),
    "longer than declared": ("reward", add_rows, "goes on after the 307 steps"),
    "shorter than the others": ("reward", rewrite(lambda v: v[:-1]), "unequal lengths"),
    "an action outside of the game": ("action", rewrite(set_action(4)), "Breakout has the actions 0 to 3"),
    "an action of no game": ("action", rewrite(set_action(18)), "holds the action 18"),
    "a negative action": ("action", rewrite(set_action(-1)), "holds the action -1"),
    "another game's frames": ("observation", rewrite(lambda v: v[:, :30]), "frames of buffer 1"),
    "pictures of another kind": ("observation", rewrite(lambda v: v.astype(np.float32)), "not the column observation"),
    "objects": ("reward", rewrite(lambda v: v.astype(object)), "not the column reward|not a gzipped"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_the_name_of_its_file(name, folder):
    member, damage, message = DAMAGE[name]
    damage(folder / f"$store$_{member}_ckpt.1.gz")
    with pytest.raises(RLTransformerError, match=message) as caught:
        open_trajectories(f"dqn-replay:{folder}")
    assert f"$store$_{member}_ckpt.1.gz" in str(caught.value) or str(folder) in str(caught.value)
    assert caught.value.fix


def test_a_folder_of_another_game_is_refused(folder, tmp_path):
    with pytest.raises(RLTransformerError, match="is a folder of Breakout"):
        open_trajectories(f"dqn-replay:{folder}?game=Pong")
    with pytest.raises(RLTransformerError, match="there is no game 'Brekout'") as caught:
        open_trajectories(f"dqn-replay:{folder}?game=Brekout")
    assert "did you mean Breakout" in caught.value.fix
    for place, problem in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "holds no replay buffer")):
        with pytest.raises(RLTransformerError, match=problem):
            open_trajectories(f"dqn-replay:{place}")


def test_without_a_game_the_number_of_actions_is_a_guess_that_is_told(tmp_path):
    write_replay_buffer(tmp_path / "logs", 0, random_buffer(np.random.default_rng(0), 60))
    data = open_trajectories(f"dqn-replay:{tmp_path / 'logs'}")
    assert isinstance(data, TrajectoryDataset)
    assert data.spec.action_space.n == 4
    (guess,) = [finding for finding in data.findings if finding.kind == "guessed actions"]
    assert "?game=NAME" in guess.fix
    assert open_trajectories(f"dqn-replay:{tmp_path / 'logs'}?game=Pong").spec.action_space.n == 6


def test_the_writer_begins_a_buffer_after_so_many_steps_and_counts_what_it_changes(tmp_path, capsys):
    episodes = [
        {
            "observations": np.full((length, 1, 36, 36), length, np.uint8),
            "actions": np.arange(length) % 3,
            "rewards": np.arange(length) - 1.0,
            "terminated": length != 4,
            "truncated": length == 4,
        }
        for length in (5, 4, 6, 3)
    ]
    data = TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(3))
    trajectories = [data.trajectory(index) for index in range(4)]
    uri = write_replay(tmp_path / "games", data.spec, trajectories, buffer_steps=9)
    assert uri == f"dqn-replay:{tmp_path / 'games'}"
    assert sorted(len(columns_of(tmp_path / "games", number)["reward"]) for number in range(2)) == [9, 9]
    printed = capsys.readouterr().out
    assert "note: 6 rewards were clipped to [-1, 1]" in printed
    assert "note: 1 of 4 games were cut off" in printed
    read = open_trajectories(uri)
    assert np.array_equal(read.observations, data.observations)
    assert np.array_equal(read.rewards, np.clip(data.rewards, -1, 1))
    assert read.lengths.tolist() == [5, 4, 6, 3]


def test_what_replay_buffers_cannot_hold_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(RLTransformerError, match="no pictures, and replay buffers hold one gray frame"):
        write_replay(tmp_path / "vectors", point_data().spec, [])
    with pytest.raises(RLTransformerError, match="holds no episode"):
        write_replay(tmp_path / "none", game_data().spec, [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("all of it")
    with pytest.raises(RLTransformerError, match="is not empty"):
        write_replay(tmp_path / "full", game_data().spec, [])
    assert main(["convert", "rlt:nowhere", "--output", str(tmp_path / "x"), "--layout", "parquet"]) == 2
    assert "choose one of store, dqn-replay" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
