"""Claims about what callers of sessions pass: what would be misread is refused, in the caller's own terms."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError
from rl_transformer.trajectories import Space, TrajectoryDataset
from tests.policy.kinds import BOTH_CONDITIONS, integer_data
from tests.toys import dials_data, point_data, toll_data, untrained_policy


def discrete_policy(start=0):
    actions = np.array([0, 1, 2, 3, 1, 2]) + start
    return untrained_policy(integer_data(actions, Space.discrete(4, start=start)))


# Legal actions

NO_MASKS = {
    "added to scores": [0, -math.inf, 0, 0],
    "a large negative number": [0.0, -1e4, 0.0, 0.0],
    "probabilities": [0, 1, 0.5, 0],
    "counts": [1, 1, 1, 2],
    "NaN": [1, 0, math.nan, 0],
    "None": [True, None, True, True],
    "text": ["1", "0", "1", "1"],
    "complex": [1j, 1, 1, 1],
}


@pytest.mark.parametrize("name", NO_MASKS)
def test_a_mask_of_other_values_than_zeros_and_ones_is_refused(name):
    policy = discrete_policy()
    session = policy.session(1.0)
    with pytest.raises(RLTransformerError, match="neither True nor False") as caught:
        session.act(np.zeros(2), allowed=NO_MASKS[name])
    assert "mask == 0" in caught.value.fix
    batch = policy.sessions([1.0, 1.0], [0, 1])
    with pytest.raises(RLTransformerError, match="neither True nor False"):
        batch.act([0, 1], np.zeros((2, 2)), allowed=[[1, 1, 1, 1], NO_MASKS[name]])
    assert session.act(np.zeros(2), allowed=np.array([0, 1, 0, 0])) == 1  # nothing has changed


@pytest.mark.parametrize("part", [[0.0, -math.inf], [0.5, 0.5], [2, 1]])
def test_the_mask_of_every_part_holds_zeros_and_ones(part):
    policy = untrained_policy(dials_data(6))
    for allowed in (([1, 1, 1], part), [1, 1, 1, *part]):
        with pytest.raises(RLTransformerError, match="neither True nor False"):
            policy.session(4.0).act(np.zeros(5), allowed=allowed)


def test_the_fix_for_a_mask_that_is_added_to_scores_works():
    scores = np.array([-math.inf, -math.inf, 0, -math.inf])
    assert discrete_policy().session(1.0).act(np.zeros(2), allowed=scores == 0) == 2


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32, torch.bool, torch.float32])
def test_zeros_and_ones_of_any_dtype_are_a_mask(dtype):
    mask = torch.tensor([0, 0, 0, 1], dtype=dtype) if isinstance(dtype, torch.dtype) else np.eye(4)[3].astype(dtype)
    assert discrete_policy().session(1.0).act(np.zeros(2), allowed=mask) == 3


def test_a_message_about_a_mask_names_the_one_cause_and_the_shape_of_what_was_passed():
    policy = discrete_policy()
    for allowed, problem, fix in (
        ([True] * 3, r"has shape \(3,\)", r"booleans of shape \(4,\)$"),
        ([[True] * 4], r"has shape \(1, 4\)", r"booleans of shape \(4,\)$"),
        ([False] * 4, "forbids every action", "at least one legal action"),
    ):
        with pytest.raises(RLTransformerError, match=problem) as caught:
            policy.session(1.0).act(np.zeros(2), allowed=allowed)
        assert caught.match(fix)
    with pytest.raises(RLTransformerError, match=r"booleans of shape \(2, 4\)"):
        policy.sessions([1.0, 1.0], [0, 1]).act([0, 1], np.zeros((2, 2)), allowed=[True] * 4)
    for mask in ([True], [[0.5, 2]]):
        with pytest.raises(RLTransformerError, match=r"continuous actions have no mask.*\n.*leave allowed out"):
            untrained_policy(point_data()).session(8.0).act(np.zeros(2), allowed=mask)


def test_an_executed_action_that_was_not_allowed_is_named_as_the_environment_received_it():
    session = discrete_policy(start=2).session(1.0)
    session.act(np.zeros(2), allowed=[True, True, True, False])
    with pytest.raises(RLTransformerError, match=r"^observe: action: 5 was not allowed"):
        session.observe(0.0, action=5)
    parts = untrained_policy(dials_data(6)).session(4.0)  # the first dial counts from 1
    parts.act(np.zeros(5), allowed=([True, True, False], [True, True]))
    with pytest.raises(RLTransformerError, match=r"\[3, 0\] was not allowed"):
        parts.observe(0.0, action=[3, 0])


# Outcomes


def test_late_outcomes_are_reported_for_some_sessions_and_none_for_others():
    batch = untrained_policy(point_data()).sessions([8.0, 8.0, 8.0], [0, 1, 2])
    batch.act([0, 1, 2], np.zeros((3, 2)))
    batch.observe([0, 1, 2])
    batch.observe_late([0, 1], [1.0, None])
    batch.observe_late([1, 2], np.array([None, 2.0], dtype=object))
    assert batch.return_to_go.tolist() == [7.0, 8.0, 6.0]
    with pytest.raises(RLTransformerError, match="nothing is reported"):
        batch.observe_late([0, 1], [None, None])
    with pytest.raises(RLTransformerError, match="no reward of session 0 is missing"):
        batch.observe_late([0, 1], [1.0, None])
    batch.observe_late([1], [0.5])
    assert batch.return_to_go.tolist() == [7.0, 7.5, 6.0]


@pytest.mark.parametrize("reward", ["1", ["1"], np.array("1"), np.array(["1"], dtype=object), b"1"])
def test_text_is_no_reward(reward):
    session = untrained_policy(point_data()).session(8.0)
    session.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="the reward is not a number"):
        session.observe(reward)
    session.observe(1.0)
    assert session.return_to_go == 7.0


# Starts


def test_single_values_for_several_sessions_are_refused_and_a_list_works():
    policy = untrained_policy(point_data())
    batch = policy.sessions([1.0], [0])
    for call, where in (
        (lambda: policy.sessions(1.0, 0), "target_returns"),
        (lambda: policy.sessions([1.0, 1.0], 0), "seeds"),
        (lambda: policy.sessions([1.0], "0"), "seeds"),
        (lambda: policy.sessions(np.array(1.0), [0]), "target_returns"),
        (lambda: policy.sessions(None, [0]), "target_returns"),
        (lambda: batch.add(9.0, 5), "target_returns"),
        (lambda: batch.add("9", [5]), "target_returns"),
        (lambda: batch.reset([0], 9.0, 5), "target_returns"),
        (lambda: batch.set_return_to_go([0], 3.0), "return_to_go"),
    ):
        with pytest.raises(RLTransformerError) as caught:
            call()
        assert (caught.value.where, caught.value.fix) == (where, "pass one per session, in a list")
    assert batch.add([9.0], range(5, 6)) == [1]
    batch.set_return_to_go((0,), np.array([3.0]))
    assert batch.return_to_go.tolist() == [3.0, 9.0]


def test_a_number_in_an_array_of_no_axis_is_a_target_and_a_truth_value_is_none(capsys):
    policy = untrained_policy(toll_data(), model=BOTH_CONDITIONS)
    session = policy.session(np.array(99.0), targets={"cost_to_go": np.array(999.0)})
    assert session.conditions == {"return_to_go": 99.0, "cost_to_go": 999.0}
    assert "target return 99 is outside" in capsys.readouterr().out
    session.return_to_go = np.array(3.0, np.float32)
    assert session.return_to_go == 3.0
    for wrong in (True, np.True_, np.array(True)):
        for call in (
            lambda wrong=wrong: policy.session(wrong, targets={"cost_to_go": 5.0}),
            lambda wrong=wrong: policy.session(5.0, targets={"cost_to_go": wrong}),
            lambda wrong=wrong: setattr(session, "return_to_go", wrong),
        ):
            with pytest.raises(RLTransformerError, match="True is not a finite number: it is a truth value"):
                call()


def test_a_target_outside_the_data_is_noted_once_and_many_of_them_end_with_a_last_line(capsys):
    policy = untrained_policy(toll_data(), model=BOTH_CONDITIONS)
    for _ in range(2):
        for target in (99.0, 98.0):
            policy.session(target, targets={"cost_to_go": 999.0})
    assert capsys.readouterr().out.count("outside the training data") == 3
    session = policy.session(5.0, targets={"cost_to_go": 999.0})
    for target in range(100, 130):
        session.return_to_go = target
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "target return 106 is outside" in lines[-2]
    assert lines[-1] == "further notes are not printed"


# What is read


def test_what_a_batch_remembers_is_read_and_never_written():
    batch = untrained_policy(point_data()).sessions([5.0, 6.0], [0, 1])
    for view in (batch.step, batch.conditions["return_to_go"]):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 3
    batch.conditions["return_to_go"] = np.zeros((2, 1))  # a dict of its own
    batch.act([0], np.zeros((1, 2)))
    batch.observe([0], [1.0])
    assert batch.return_to_go.tolist() == [4.0, 6.0]
    assert batch.step.tolist() == [1, 0]


# Observations


def on(space, observations):
    episode = {
        "observations": observations,
        "actions": np.zeros((5, 1)),
        "rewards": np.zeros(5),
        "truncated": True,
    }
    return untrained_policy(TrajectoryDataset.from_episodes([episode], observation_space=space))


BITS = gym.spaces.MultiBinary(3)


@pytest.mark.parametrize("value", [[0, 1, 2], [0.5, 0, 1], [-1, 0, 1], [math.nan, 0, 1]])
def test_live_bits_are_zeros_and_ones(value):
    policy = on(BITS, np.tile([0, 1, 1], (6, 1)).astype(np.int8))
    session = policy.session(0.0)
    with pytest.raises(RLTransformerError, match="is neither 0 nor 1") as caught:
        session.act(value)
    assert "zeros and ones of shape (3,)" in caught.value.fix
    session.act([True, False, True])
    nested = gym.spaces.Dict({"a": gym.spaces.Tuple((BITS, gym.spaces.Discrete(2)))})
    bits = np.tile([0, 1, 1], (6, 1)).astype(np.int8)
    session = on(nested, {"a": (bits, np.zeros(6, int))}).session(0.0)
    with pytest.raises(RLTransformerError, match=r"act: observation\[a\]\[0\]: .* is neither 0 nor 1"):
        session.act({"a": (np.array(value), 1)})
    session.act({"a": ([0, 1, 1], 1)})


def test_numbers_in_a_tuple_are_the_same_observation_as_in_a_list():
    policy = untrained_policy(point_data())
    expected = policy.session(8.0).act([0.5, -1.0])
    assert policy.session(8.0).act((0.5, -1.0)).tolist() == expected.tolist()
    assert policy.sessions([8.0], [0]).act([0], ((0.5, -1.0),)).tolist() == [expected.tolist()]
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    space = gym.spaces.Dict({"x": box, "y": gym.spaces.Tuple((box, box))})
    zeros = np.zeros((6, 2), np.float32)
    nested = on(space, {"x": zeros, "y": (zeros, zeros)})
    listed = {"x": [0.5, 1.0], "y": ([0.1, 0.2], [0.3, 0.4])}
    tuples = {"x": (0.5, 1.0), "y": ((0.1, 0.2), (0.3, 0.4))}
    assert nested.session(0.0).act(tuples).tolist() == nested.session(0.0).act(listed).tolist()
    with pytest.raises(RLTransformerError, match=r"has shape \(3,\)"):
        policy.session(8.0).act((0.5, -1.0, 0.0))
