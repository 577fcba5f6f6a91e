"""Claims about the actions of boxes: they have the dtype of the space and lie inside its bounds, whatever these are."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl_transformer.policy.actions import fit, limits_in_dtype
from rl_transformer.trajectories import Space, TrajectoryDataset
from tests.policy.kinds import integer_data
from tests.toys import untrained_policy

DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64")


def fit_to_box(values, space):
    return fit(values, *limits_in_dtype(space))


def policy_on(space, actions):
    """A policy whose action lies far above the bounds (bias 50) or far below them (bias -50)."""
    return untrained_policy(integer_data(actions, space))


def at_the_bounds(policy):
    linear = policy.model.predict_action[0]
    torch.nn.init.zeros_(linear.weight)
    actions = []
    for bias in (50.0, -50.0, 0.3):
        torch.nn.init.constant_(linear.bias, bias)
        actions.append(policy.session(0.0).act(np.zeros(2)))
    return actions


def test_an_action_at_a_float64_bound_lies_inside_the_space():
    """float32(-0.1) is smaller than -0.1. Reported as PettingZoo#1000."""
    space = gym.spaces.Box(-0.1, 0.1, (2,), np.float64)
    policy = policy_on(Space.box((2,), -0.1, 0.1, "float64"), np.array([[0.05, -0.05], [0.1, 0.0]]))
    high, low, _ = at_the_bounds(policy)
    assert (high.tolist(), low.tolist()) == ([0.1, 0.1], [-0.1, -0.1])
    assert space.contains(high)
    assert space.contains(low)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tanh", [True, False])
def test_sessions_act_inside_the_space_of_every_dtype(dtype, tanh):
    """Bounds that float32 and the dtype round in both directions."""
    is_float = dtype.startswith("float")
    low, high = (-0.1, 0.3) if is_float else (3, 117)
    space = gym.spaces.Box(low, high, (2,), np.dtype(dtype))
    middle = np.array([[(low + high) / 2] * 2] * 3)
    declared = Space.box((2,), space.low.astype(np.float64), space.high.astype(np.float64), dtype)
    data = TrajectoryDataset.from_episodes(
        [
            {
                "observations": np.random.rand(4, 2),
                "actions": middle.astype(dtype),
                "rewards": [0.0] * 3,
                "truncated": True,
            }
        ],
        action_space=declared,
    )
    policy = untrained_policy(data, model={"action_tanh": tanh})
    for action in at_the_bounds(policy):
        assert action.dtype == np.dtype(dtype)
        assert space.contains(action), (action, space)


@settings(max_examples=300, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    bounds=st.lists(
        st.floats(-1e30, 1e30, allow_nan=False) | st.just(-np.inf) | st.just(np.inf), min_size=2, max_size=2
    ),
    scale=st.sampled_from([1e-3, 1.0, 1e6, 1e19, 1e30]),
    values=st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=5),
)
@example(dtype="float32", bounds=[-0.1, 0.1], scale=1.0, values=[5.0, -5.0])  # both are rounded outwards by float32
def test_no_number_leaves_the_bounds_of_any_box(dtype, bounds, scale, values):
    low, high = sorted(np.clip(bound, -scale, scale) if np.isfinite(bound) else bound for bound in bounds)
    if np.dtype(dtype).kind != "f" and (np.floor(high) < np.ceil(low) or high < 0 > low or low == high == np.inf):
        return  # no number of the dtype lies inside
    if low == high and not np.isfinite(low):
        return
    limits = (np.finfo if np.dtype(dtype).kind == "f" else np.iinfo)(dtype)
    if high < limits.min or low > limits.max:
        return
    fitted = fit_to_box(np.array(values, np.float32)[:, None], Space.box((1,), low, high, dtype))
    assert fitted.dtype == np.dtype(dtype)
    exact = [int(v) if fitted.dtype.kind in "iu" else float(v) for v in fitted[:, 0]]
    assert np.isfinite(fitted.astype(np.float64)).all()
    # A box narrower than two neighboring numbers of its dtype contains at best one of them, as rounded.
    with np.errstate(over="ignore"):
        is_narrow = np.dtype(dtype).kind == "f" and np.array(low).astype(dtype) == np.array(high).astype(dtype)
    if not is_narrow:
        assert all(low <= number <= high for number in exact), (exact, low, high)


def test_numbers_inside_the_bounds_are_only_rounded():
    space = Space.box((3,), [-1, 0, 5], [1, 10, 5], "int64")
    assert fit_to_box(np.array([[0.4, 2.6, 4.9], [0.6, 99, 7]], np.float32), space).tolist() == [[0, 3, 5], [1, 10, 5]]
    whole = Space.box((1,), -(2**63), 2**63 - 1, "int64")
    assert fit_to_box(np.array([[1e30], [-1e30], [2.0**40]], np.float32), whole).tolist() == [
        [2**63 - 1],
        [-(2**63)],
        [2**40],
    ]


def test_the_context_holds_the_number_that_was_executed():
    """A float16 action is rounded, and the model sees the rounded one, as it sees logged actions."""
    data = TrajectoryDataset.from_episodes(
        [
            {
                "observations": np.random.rand(4, 2),
                "actions": np.full((3, 1), 0.3, np.float16),
                "rewards": [0.0] * 3,
                "truncated": True,
            }
        ],
        action_space=Space.box((1,), -1, 1, "float16"),
    )
    session = untrained_policy(data).session(0.0)
    action = session.act(np.zeros(2))
    assert session._batch._history.columns["actions"][0].tolist() == action.astype(np.float32).tolist()
