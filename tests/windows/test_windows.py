"""Claims about windows: which are drawn, what stands in them, and what never matters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rl_transformer import RLTransformerError, RunConfig
from rl_transformer.conditions import ReturnToGo
from rl_transformer.trajectories import DataSpec, Space, TrajectoryDataset
from rl_transformer.windows.gathering import ConditionColumn, WindowGatherer
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowIndex, WindowSampler
from rl_transformer.windows.selection import split_trajectories, top_trajectories
from tests.toys import telling_data

PLAIN = Normalizer(None, None, None, None, None, None)


def gatherer(dataset, length=4, **options):
    defaults = {
        "conditions": [ConditionColumn(dataset.returns_to_go, 10.0)],
        "max_timesteps": 100,
        "normalizer": PLAIN,
    }
    return WindowGatherer(dataset, window_length=length, **(defaults | options))


def sampler(dataset, **options):
    return WindowSampler(dataset.offsets, np.arange(len(dataset)), **({"seed": 0} | options))


def test_windows_hold_consecutive_steps_of_one_episode_with_padding_after_them():
    data = telling_data()
    batch = gatherer(data).gather(WindowIndex(np.array([4, 9, 12]), np.array([1, 1, 2])))
    valid = batch.valid_mask
    assert valid.tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    assert batch.states[..., 0][valid].tolist() == [100, 101, 102, 103, 105, 106, 201]
    assert batch.timesteps[valid].tolist() == [0, 1, 2, 3, 5, 6, 1]
    torch.testing.assert_close(batch.conditions[..., 0][valid], torch.tensor([28, 27, 25, 22, 13, 7, 20.0]))
    torch.testing.assert_close(
        batch.actions[..., 0][valid], torch.tensor([0.1, 0.101, 0.102, 0.103, 0.105, 0.106, 0.201])
    )
    assert set(batch.states[..., 0][~valid].tolist()) <= {106, 201}  # never another episode


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 8), st.integers(0, 10**6))
def test_a_batch_equals_a_loop_over_its_windows(lengths, context, seed):
    data = telling_data(tuple(lengths))
    index = sampler(data, seed=seed).draw(3, 16)
    batch = gatherer(data, context).gather(index)
    for i, (row, episode) in enumerate(zip(index.rows, index.trajectories, strict=True)):
        trajectory = data.trajectory(int(episode))
        start = int(row - data.offsets[episode])
        expected = trajectory.observations[start : start + context]
        assert int(batch.valid_mask[i].sum()) == len(expected)
        np.testing.assert_array_equal(batch.states[i, : len(expected)], expected)
        rewards = trajectory.rewards
        for t in range(len(expected)):
            assert batch.conditions[i, t, 0] == pytest.approx(rewards[start + t :].sum() / 10, rel=1e-6)


def test_every_step_of_the_data_begins_a_window_equally_often():
    data = telling_data((3, 50, 1, 20))
    rows = np.concatenate([sampler(data).draw(step, 64).rows for step in range(400)])
    counts = np.bincount(rows, minlength=data.num_steps)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert counts[data.offsets[1:] - 1].min() > 0  # the last step of an episode begins windows too


def test_a_batch_is_a_function_of_seed_and_step_alone():
    data = telling_data()
    one = sampler(data)
    other = sampler(data)
    for step in (5, 1, 9):
        other.draw(step, 8)
    assert one.draw(7, 8).rows.tolist() == other.draw(7, 8).rows.tolist()
    assert one.draw(7, 8).rows.tolist() != one.draw(8, 8).rows.tolist()
    assert one.draw(7, 8).rows.tolist() != sampler(data, seed=1).draw(7, 8).rows.tolist()


def test_first_begins_every_window_with_its_episode_and_weighs_episodes_by_length():
    data = telling_data((10, 30))
    rows = np.concatenate([sampler(data, start="first").draw(step, 100).rows for step in range(100)])
    assert set(rows) == {0, 10}
    assert (rows == 10).mean() == pytest.approx(0.75, abs=0.02)


def test_balancing_raises_rare_returns_by_the_share_it_is_given():
    lengths = np.full(100, 5)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    returns = np.zeros(100)
    returns[7] = 1.0
    chosen = WindowSampler(offsets, np.arange(100), seed=0, return_balance=0.5, episode_returns=returns)
    drawn = np.concatenate([chosen.draw(step, 100).trajectories for step in range(100)])
    assert (drawn == 7).mean() == pytest.approx(0.5 * 0.5 + 0.5 * 0.01, abs=0.02)
    plain = WindowSampler(offsets, np.arange(100), seed=0, episode_returns=returns)
    assert (np.concatenate([plain.draw(s, 100).trajectories for s in range(100)]) == 7).mean() == pytest.approx(
        0.01, abs=0.005
    )


def test_only_the_chosen_episodes_are_drawn():
    data = telling_data((4, 7, 2, 9))
    chosen = WindowSampler(data.offsets, np.array([1, 3]), seed=0)
    assert chosen.num_steps == 16
    index = chosen.locate(np.arange(16))
    assert index.rows.tolist() == [*range(4, 11), *range(13, 22)]
    assert index.trajectories.tolist() == [1] * 7 + [3] * 9


def test_top_fraction_counts_timesteps_and_keeps_the_best():
    returns = np.array([5.0, 9.0, 1.0, 7.0])
    lengths = np.array([10, 10, 70, 10])
    assert top_trajectories(returns, lengths, 0.1).tolist() == [1]
    assert top_trajectories(returns, lengths, 0.29).tolist() == [1, 3]
    assert top_trajectories(returns, lengths, 0.3).tolist() == [0, 1, 3]
    assert top_trajectories(returns, lengths, 1.0).tolist() == [0, 1, 2, 3]  # kzl before e2d82e6 dropped the worst here
    assert top_trajectories(returns, lengths, 0.001).tolist() == [1]


def test_held_out_episodes_are_fixed_by_the_seed_and_disjoint():
    learned, held_out = split_trajectories(100, 0.1, seed=3)
    assert len(held_out) == 10
    assert sorted([*learned, *held_out]) == list(range(100))
    assert held_out.tolist() == split_trajectories(100, 0.1, seed=3)[1].tolist()
    assert held_out.tolist() != split_trajectories(100, 0.1, seed=4)[1].tolist()
    with pytest.raises(RLTransformerError, match="leaves none to train on"):
        split_trajectories(1, 0.5, seed=0)


def test_timesteps_beyond_the_table_are_held_at_its_last_row():
    data = telling_data((8,))
    batch = gatherer(data, 8, max_timesteps=5).gather(WindowIndex(np.array([0]), np.array([0])))
    assert batch.timesteps.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4]]


def test_frames_are_stacked_by_the_gather_and_never_across_episodes():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 40, 40), np.uint8)
    episodes = [
        {"observations": frames + 10 * e, "actions": np.zeros(5, np.int64), "rewards": np.zeros(5), "terminated": True}
        for e in range(2)
    ]
    data = TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(2))
    batch = gatherer(data, 3, conditions=[], frame_stack=3).gather(WindowIndex(np.array([5, 8]), np.array([1, 1])))
    assert batch.states.dtype == torch.uint8
    assert batch.states[:, :, :, 0, 0].tolist() == [
        [[10, 10, 10], [10, 10, 11], [10, 11, 12]],
        [[11, 12, 13], [12, 13, 14], [12, 13, 14]],
    ]
    assert batch.conditions.shape == (2, 3, 0)


def test_conditions_follow_one_another_each_divided_by_its_own_scale():
    data = telling_data(with_cost=True)
    rows = np.arange(data.num_steps, dtype=np.float32)
    wide = ConditionColumn(np.stack([rows, -rows], axis=1), 2.0)
    cost = ConditionColumn(data.columns["cost"].astype(np.float32), 1000.0)
    both = gatherer(data, 2, conditions=[cost, wide])
    index = WindowIndex(np.array([7]), np.array([1]))  # steps 3 and 4 of episode 1, rows 7 and 8
    expected = torch.tensor([[[1.03, 3.5, -3.5], [1.04, 4.0, -4.0]]])
    torch.testing.assert_close(both.gather(index).conditions, expected)
    other = both.with_conditions([wide])
    torch.testing.assert_close(other.gather(index).conditions, expected[..., 1:])
    assert torch.equal(other.gather(index).states, both.gather(index).states)
    torch.testing.assert_close(both.gather(index).conditions, expected)  # the first one has not changed


def test_rewards_terminations_and_next_states_are_gathered_on_request_only():
    data = telling_data()
    index = WindowIndex(np.array([1, 8]), np.array([0, 1]))  # the last three steps of episodes 0 and 1
    plain = gatherer(data, 3).gather(index)
    assert (plain.rewards, plain.terminations, plain.next_states) == (None, None, None)
    batch = gatherer(data, 3).gather(index, extra=("rewards", "terminations", "next_states"))
    assert batch.rewards.tolist() == [[2, 3, 4], [50, 60, 70]]  # not scaled
    assert batch.terminations.tolist() == [[False, False, True], [False] * 3]  # episode 1 was truncated
    assert batch.next_states[..., 0].tolist() == [[2, 3, 4], [105, 106, 107]]  # 4 and 107 are final observations
    assert torch.equal(batch.states, plain.states)
    with pytest.raises(ValueError, match="is not among"):
        gatherer(data, 3).gather(index, extra=("next_actions",))


def test_the_state_after_the_last_step_must_have_been_recorded():
    whole = telling_data()
    cut = {"observations": whole.observations, "actions": whole.actions, "rewards": whole.rewards, "terminated": True}
    data = TrajectoryDataset.from_episodes([cut])
    index = WindowIndex(np.array([0]), np.array([0]))
    with pytest.raises(RLTransformerError, match=r"no final observations.*\n.*record T \+ 1 observations"):
        gatherer(data).gather(index, extra=("next_states",))


def test_next_states_of_stacked_frames_end_with_the_final_frame():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 40, 40), np.uint8)
    episode = {"observations": frames, "actions": np.zeros(4, np.int64), "rewards": np.zeros(4), "terminated": True}
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.discrete(2))
    batch = gatherer(data, 2, conditions=[], frame_stack=3).gather(
        WindowIndex(np.array([2]), np.array([0])), extra=("next_states",)
    )
    assert batch.states[0, :, :, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3]]
    assert batch.next_states[0, :, :, 0, 0].tolist() == [[1, 2, 3], [2, 3, 4]]


@pytest.mark.parametrize("clip", [None, 15.0])
@pytest.mark.parametrize("update", ["subtract", "keep"])
def test_the_return_to_go_of_the_data_is_what_a_session_would_aim_for(clip, update):
    data = telling_data()
    returns = ReturnToGo(update=update, reward_clip=clip)
    column = returns.column(data)
    totals = returns.totals(data)
    for e in range(len(data)):
        target = np.array([[totals[e]]])
        for t in range(data.lengths[e]):
            row = data.offsets[e] + t
            assert column[row] == pytest.approx(target[0, 0])
            target = returns.after(target, data.rewards[row : row + 1])
        if update == "subtract":
            assert target[0, 0] == pytest.approx(0)


@pytest.mark.parametrize(
    ("largest", "scale"), [(3718.0, 1000), (1.0, 1), (0.5, 0.1), (-250.0, 100), (0.0, 1), (999.9, 100)]
)
def test_the_scale_that_is_not_given_is_the_power_of_ten_below_the_largest_return(largest, scale):
    episode = {
        "observations": np.eye(2),
        "actions": np.zeros((2, 1)),
        "rewards": np.array([0, largest]),
        "terminated": True,
    }
    data = TrajectoryDataset.from_episodes([episode])
    config = RunConfig()
    assert ReturnToGo.from_data(data, config).scale == pytest.approx(scale)
    config.returns.scale = 7.0
    config.returns.update = "keep"
    config.returns.reward_clip = 1.0
    assert ReturnToGo.from_data(data, config) == ReturnToGo(scale=7.0, update="keep", reward_clip=1.0)


def test_the_delayed_return_leaves_the_data_as_it_is():
    data = telling_data()
    before = data.rewards.copy()
    ReturnToGo(update="keep").column(data)
    np.testing.assert_array_equal(data.rewards, before)


def test_actions_map_to_the_unit_range_and_back_exactly_at_unit_bounds():
    spec = DataSpec(Space.box((1,)), Space.box((2,), [-2, 0], [2, 10]))
    normalizer = Normalizer.from_data(spec, None, action_tanh=True)
    recorded = torch.tensor([[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0]])
    assert normalizer.to_model_actions(recorded).tolist() == [[-1, -1], [0, 0], [1, 1]]
    torch.testing.assert_close(normalizer.to_env_actions(normalizer.to_model_actions(recorded)), recorded)
    unit = Normalizer.from_data(DataSpec(Space.box((1,)), Space.box((1,), -1, 1)), None, action_tanh=True)
    values = torch.rand(100, 1) * 2 - 1
    assert torch.equal(unit.to_model_actions(values), values)
    assert torch.equal(unit.to_env_actions(values), values)
    with pytest.raises(RLTransformerError, match="no bounds"):
        Normalizer.from_data(DataSpec(Space.box((1,)), Space.box((1,))), None, action_tanh=True)
