"""Steps of a policy that its exported files must repeat: what came in, and what a session did.

Shapes: N steps, C conditions, M length of a legal-action mask, U uniform numbers; *shape are the axes of one action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.policy.actions import limits_in_dtype
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.trajectories import Space, TrajectoryDataset
from rl_transformer.trajectories.space_values import one_hot

NUM_STEPS = 64
_FIRST_EPISODE = 44  # steps, so that most windows are full and have moved
_EVERY = 8  # of the drawn steps one in so many executes another action than the policy's


@dataclass(frozen=True)
class Recorded:
    """What comes to a policy in N steps of a few episodes."""

    observations: np.ndarray
    is_first: np.ndarray
    """True at the first step of an episode: (N,)."""
    rewards: np.ndarray
    others: np.ndarray
    """Actions that may be executed in place of the policy's: (N, *shape)."""
    executes_other: np.ndarray
    """True where they are: (N,)."""
    allowed: np.ndarray | None
    """Legal actions, (N, M); None if the actions have no mask."""
    outcomes: dict[str, np.ndarray]
    """Outcomes beside the reward, by name: (N,)."""


def golden_steps(policy: Policy, seed: int, dataset: TrajectoryDataset | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of golden.npz, each with a leading axis of N steps.

    Args:
        policy: The policy, which acts in sessions.
        seed: Of everything that is drawn.
        dataset: Whose observations, rewards and actions are used; None: they are drawn inside of the spaces.
    """
    random = generator(Stream.GOLDEN_STEPS, seed)
    steps = _draw(policy, random) if dataset is None else _from_data(policy, dataset, random)
    targets = _draw_targets(policy, steps.is_first, random)
    # Every episode has a seed of its own, from 1: a client has to begin anew with each.
    seeds = np.cumsum(steps.is_first)
    session = None
    actions, executed, returns = [], [], []
    for step, is_first in enumerate(steps.is_first):
        if is_first or session is None:
            given = dict(zip([c.name for c in policy.spec.conditions], targets[step].tolist(), strict=True))
            target = given.pop("return_to_go", None)
            session = policy.session(
                target if policy.spec.takes_target else None, int(seeds[step]), targets=given or None
            )
        allowed = None if steps.allowed is None else steps.allowed[step]
        actions.append(session.act(steps.observations[step], allowed))
        executed.append(steps.others[step] if steps.executes_other[step] else actions[-1])
        returns.append(list(session.conditions.values()))
        outcomes = {name: float(values[step]) for name, values in steps.outcomes.items()}
        session.observe(float(steps.rewards[step]), action=executed[-1], **outcomes)
    arrays = {
        "observations": steps.observations,
        "is_first": steps.is_first,
        "rewards": steps.rewards,
        "targets": targets,
        "conditions": np.array(returns, np.float64),
        "seeds": seeds,
        "actions": np.stack(actions),
        "executed": np.stack(executed),
        **steps.outcomes,
    }
    if steps.allowed is not None:
        arrays["allowed"] = steps.allowed
    count = policy.model.predict_action.num_uniforms
    if policy.spec.action_selection == "sample":
        arrays["uniforms"] = _uniforms(seeds, count)
    return arrays


def _uniforms(seeds: np.ndarray, count: int) -> np.ndarray:
    """Return the random numbers of every step, (N, U), as sessions draw them."""
    drawn = [
        generator(Stream.ACTION_SAMPLING, int(seed)).random(((seeds == seed).sum(), count)) for seed in np.unique(seeds)
    ]
    return np.concatenate(drawn)


def _draw_targets(policy: Policy, is_first: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a target of every condition for each episode, in the range of the training data: (N, C)."""
    spec = policy.spec
    ranges = [spec.target_ranges.get(c.name, (0.0, c.scale)) for c in spec.conditions]
    episodes = np.cumsum(is_first) - 1
    return np.array([[random.uniform(*pair) for pair in ranges] for _ in range(is_first.sum())])[episodes].reshape(
        len(is_first), len(ranges)
    )


def _draw(policy: Policy, random: np.random.Generator) -> Recorded:
    """Return steps that are drawn inside of the policy's spaces."""
    spec = policy.spec
    space = spec.data.observation_space
    is_first = np.isin(np.arange(NUM_STEPS), (0, _FIRST_EPISODE))
    others, allowed = _draw_actions(policy, random)
    names = {condition.outcome for condition in spec.conditions} - {"reward"}
    # Rewards of this size change what the model reads of the return.
    scale = spec.returns.scale / 20
    return Recorded(
        observations=np.stack([_draw_observation(policy, space, random) for _ in range(NUM_STEPS)]),
        is_first=is_first,
        rewards=scale * random.normal(size=NUM_STEPS),
        others=others,
        executes_other=np.arange(NUM_STEPS) % _EVERY == _EVERY - 1,
        allowed=allowed,
        outcomes={name: random.uniform(size=NUM_STEPS) for name in sorted(names)},
    )


def _from_data(policy: Policy, dataset: TrajectoryDataset, random: np.random.Generator) -> Recorded:
    """Return steps of logged episodes, with the actions that were executed."""
    spec = policy.spec
    if (dataset.spec.observation_space.flat_shape, dataset.spec.action_space) != (
        spec.data.observation_space.flat_shape,
        spec.data.action_space,
    ):
        raise RLTransformerError(
            "has other observations or actions than the policy", where="--data", fix="name data of the same task"
        )
    chosen, left = [], NUM_STEPS
    for index in random.permutation(len(dataset)):
        # No episode fills all steps, so that with two or more the beginning of a second one is recorded, too.
        count = min(int(dataset.lengths[index]), left, _FIRST_EPISODE)
        chosen.append((int(index), count))
        left -= count
        if not left:
            break
    parts = [(dataset.trajectory(index), count) for index, count in chosen]
    lengths = [count for _, count in parts]
    total = sum(lengths)
    names = {condition.outcome for condition in spec.conditions} - {"reward"}
    head = policy.model.predict_action
    masks = dataset.action_masks
    everything = np.ones((total, head.num_allowed), bool)
    rows = np.concatenate([int(dataset.offsets[index]) + np.arange(count) for index, count in chosen])
    return Recorded(
        observations=np.concatenate([dataset.spec.observation_space.flatten(t.observations)[:n] for t, n in parts]),
        is_first=np.isin(np.arange(total), np.cumsum([0, *lengths[:-1]])),
        rewards=np.concatenate([t.rewards[:n] for t, n in parts]),
        others=np.concatenate([t.actions[:n] for t, n in parts]),
        # Throughout, since the logged rewards and observations followed from the logged actions.
        executes_other=np.ones(total, bool),
        allowed=(everything if masks is None else masks[rows]) if head.num_allowed else None,
        outcomes={name: np.concatenate([t.extras[name][:n].reshape(-1) for t, n in parts]) for name in sorted(names)},
    )


def _draw_observation(policy: Policy, space: Space, random: np.random.Generator) -> np.ndarray:
    """Return an observation: as the environment gives it if it is an array, otherwise as the policy reads it."""
    if space.kind != "box":
        return _draw_part(space, random, _means(policy), _scales(policy))
    flat = _draw_part(space, random, _means(policy), _scales(policy))
    return flat.astype(space.dtype).reshape(space.shape)


def _draw_part(space: Space, random: np.random.Generator, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a drawn value as a flat row; mean and scale are those of its features."""
    if space.is_image:
        return random.integers(0, 256, space.flat_shape, dtype=np.uint8)
    if space.parts:
        ends = np.cumsum([part.flat_dim for _, part in space.parts])
        return np.concatenate(
            [
                _draw_part(part, random, mean[end - part.flat_dim : end], scale[end - part.flat_dim : end])
                for (_, part), end in zip(space.parts, ends, strict=True)
            ]
        )
    if space.kind in ("discrete", "multi_discrete"):
        sizes = (space.n,) if space.kind == "discrete" else space.nvec
        return one_hot(random.integers(0, sizes)[None], sizes)[0]
    values = mean + scale * random.normal(size=space.flat_dim)
    if space.kind == "multi_binary":
        return (values > mean).astype(np.float32)
    low, high = space.bounds
    values = np.clip(values, low, high)
    return (np.rint(values) if np.dtype(space.dtype).kind in "iub" else values).astype(np.float32)


def _means(policy: Policy) -> np.ndarray:
    mean = policy.normalizer.observation_mean
    return np.zeros(0) if mean is None else mean.cpu().double().numpy()


def _scales(policy: Policy) -> np.ndarray:
    scale = policy.normalizer.observation_scale
    return np.zeros(0) if scale is None else scale.cpu().double().numpy()


def _draw_actions(policy: Policy, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Return legal actions, and masks that allow them if the actions have masks."""
    space = policy.spec.data.action_space
    if space.is_continuous:
        low, high = limits_in_dtype(space)
        center = (
            np.zeros(space.flat_dim)
            if policy.normalizer.action_center is None
            else policy.normalizer.action_center.cpu().double().numpy()
        )
        values = center + random.uniform(-0.5, 0.5, (NUM_STEPS, space.flat_dim))
        fitted = np.clip(np.rint(values) if low.dtype.kind in "iub" else values, low, high).astype(low.dtype)
        return space.decode_actions(fitted), None
    sizes = np.array([space.n] if space.kind == "discrete" else space.nvec)
    indices = random.integers(0, sizes, (NUM_STEPS, len(sizes)))
    actions = space.decode_actions(indices.reshape(NUM_STEPS, *space.action_shape))
    if not policy.model.predict_action.num_allowed:
        return actions, None
    allowed = random.random((NUM_STEPS, int(sizes.sum()))) < 0.7
    # The action that may be executed must be legal at its own step.
    np.put_along_axis(allowed, indices + np.cumsum(sizes) - sizes, True, axis=1)
    return actions, allowed
