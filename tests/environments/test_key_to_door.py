"""Claims about Key-to-Door: the rooms, the hidden key, and the chance of success by luck."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy import stats

from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.environments.key_to_door import KEY_ROOM, KeyToDoorEnv, cells, random_success_rate
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.trajectories import TrajectoryDataset

NORTH, SOUTH, WEST, EAST = range(4)


@pytest.fixture
def env():
    return KeyToDoorEnv()


def walk_to_key(env, seed=0):
    """Walk through the gap in the middle of the room and onto the key."""
    env.reset(seed=seed)
    state = env._state
    moves = [EAST if state.player[1] < 3 else WEST] * abs(state.player[1] - 3)
    moves += [NORTH] * (state.player[0] - state.key[0])
    moves += [EAST if state.key[1] > 3 else WEST] * abs(state.key[1] - 3)
    return moves


def test_the_exact_chance_of_random_success():
    assert random_success_rate() == pytest.approx(0.02815, abs=5e-6)


def test_ten_thousand_random_episodes_agree_with_it(env):
    data = TrajectoryDataset.in_memory(*record_episodes(env, KEY_TO_DOOR, 10_000, seed=0))
    successes = int(data.episode_returns.sum())
    assert 0.025 <= successes / 10_000 <= 0.032
    assert stats.binomtest(successes, 10_000, random_success_rate()).pvalue > 0.01
    assert set(data.lengths) == {45}
    assert set(data.episode_returns) == {0.0, 1.0}


def test_rooms_have_ten_places_for_the_key_and_ten_for_the_player():
    assert (len(cells(KEY_ROOM, "k")), len(cells(KEY_ROOM, "+"))) == (10, 10)


def test_key_then_door_earns_one_once_and_only_with_the_key(env):
    for fetch in (True, False):
        moves = walk_to_key(env) if fetch else []
        moves = [*moves, *[SOUTH] * (15 - len(moves)), *[NORTH] * 15, *[NORTH] * 15]
        env.reset(seed=0)
        rewards, ends = zip(*[(step[1], step[2]) for step in map(env.step, moves)], strict=True)
        assert sum(rewards) == (1.0 if fetch else 0.0)
        assert ends == (False,) * 44 + (True,)
        if fetch:
            assert rewards.index(1.0) == 31  # two steps north of the start of the door room


def test_the_key_is_seen_until_taken_and_hidden_later(env):
    moves = walk_to_key(env)
    observation, _ = env.reset(seed=0)
    assert observation[5] == 1
    np.testing.assert_allclose(observation[6:8] * 10, env._state.key, atol=1e-5)
    for move in moves:
        observation, *_ = env.step(move)
    assert env._state.has_key
    assert observation[5:].tolist() == [0, 0, 0]
    with_key = [env.step(SOUTH)[0] for _ in range(15 - len(moves))] + [env.step(WEST)[0] for _ in range(30)]
    env.reset(seed=0)
    without = [env.step(SOUTH)[0] for _ in range(15)] + [env.step(WEST)[0] for _ in range(30)]
    for mine, other in zip(with_key[-31:], without[-31:], strict=True):  # phases 2 and 3 look the same
        np.testing.assert_array_equal(mine, other)


def test_walls_stop_and_phases_follow_one_another(env):
    env.reset(seed=1)
    seen = [env.step(WEST)[0] for _ in range(45)]
    phases = [int(np.argmax(o[:3])) for o in seen]
    assert phases == [0] * 14 + [1] * 15 + [2] * 16
    assert min(o[4] for o in seen) == pytest.approx(0.1)  # never into the wall at column 0


def test_the_same_seed_gives_the_same_places_and_it_is_a_gymnasium_environment(env):
    first, second = (env.reset(seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert any((env.reset(seed=s)[0] != first).any() for s in range(4, 9))
    check_env(gym.make(KEY_TO_DOOR).unwrapped, skip_render_check=True)
    drawn = KeyToDoorEnv(render_mode="rgb_array")
    drawn.reset(seed=0)
    assert drawn.render().shape == (112, 176, 3)
