"""What a return model of Key-to-Door knows: when the return becomes predictable, and what it attends to."""

from __future__ import annotations

import numpy as np
import torch

from rl_transformer.environments.key_to_door import EPISODE_STEPS, PHASE_STEPS
from rl_transformer.models.return_model import BEFORE_ACTION, ReturnModel
from rl_transformer.policy import Policy
from rl_transformer.reproductions.experiment import JSON
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowIndex

GROUPS = {"opened": "key taken, door opened", "missed": "key taken, door missed", "no_key": "key not taken"}
"""What may happen in a walk; the names are part of the cells' files."""
_KEY_IS_VISIBLE = 5  # index in the observation
_EPISODES_ATTENDED = 200


@torch.inference_mode()
def return_model_diagnostics(policy: Policy, walks: TrajectoryDataset) -> JSON:
    """Return what the return model predicts on held-out walks, and how much it attends to the pick-up of the key.

    Returns:
        ``with_key`` and ``without_key``: the mean prediction in the middle room, where nothing more can
        be learned. ``attention_to_pickup``: attention, mean over layers and heads, from the later rooms to
        the four tokens around the pick-up, divided by what an even share would be. ``curves``: mean
        prediction at each step, by what happened.
    """
    model = policy.return_model
    assert model is not None
    batch = _whole_episodes(policy, walks)
    predicted = model.expected(model(batch.states, batch.actions, batch.timesteps)[:, :, BEFORE_ACTION]).numpy()
    observations = np.asarray(walks.observations).reshape(len(walks), EPISODE_STEPS, -1)
    visible = observations[:, :PHASE_STEPS, _KEY_IS_VISIBLE] > 0
    # The key is taken in the step before it vanishes; taken in the very last one it is not seen to vanish.
    taken = ~visible.all(axis=1)
    opened = walks.episode_returns > 0
    groups = {"opened": taken & opened, "missed": taken & ~opened, "no_key": ~taken & ~opened}
    middle_room = slice(PHASE_STEPS + 1, 2 * PHASE_STEPS)
    return {
        "with_key": float(predicted[taken, middle_room].mean()),
        "without_key": float(predicted[groups["no_key"], middle_room].mean()),
        "attention_to_pickup": _attention_to_pickup(model, batch, visible),
        "curves": {name: predicted[is_member].mean(axis=0).tolist() for name, is_member in groups.items()},
    }


def _whole_episodes(policy: Policy, walks: TrajectoryDataset) -> WindowBatch:
    gatherer = WindowGatherer(
        walks,
        conditions=[],
        window_length=EPISODE_STEPS,
        max_timesteps=policy.spec.model.max_ep_len,
        normalizer=policy.normalizer,
    )
    return gatherer.gather(WindowIndex(walks.offsets[:-1], np.arange(len(walks))))


def _attention_to_pickup(model: ReturnModel, batch: WindowBatch, visible: np.ndarray) -> float:
    """Return the attention to the pick-up over an even share, mean over walks that took the key.

    Args:
        model: The return model.
        batch: Whole walks.
        visible: (walks, steps of the first room) whether the key is seen.
    """
    later_rooms = torch.arange(2 * PHASE_STEPS, 2 * EPISODE_STEPS, 2)  # their observation tokens
    shares = []
    for episode in np.flatnonzero(~visible.all(axis=1))[:_EPISODES_ATTENDED]:
        one = slice(episode, episode + 1)
        layers = model.attentions(batch.states[one], batch.actions[one], batch.timesteps[one])
        weights = torch.stack(layers).mean(dim=(0, 1, 2))  # (L, L) over observation and action tokens
        first_without = int(np.argmin(visible[episode]))  # the first step at which the key is not seen any more
        around = slice(max(0, 2 * (first_without - 1)), 2 * (first_without + 1))
        received = weights[later_rooms, around].sum(dim=1)
        even = (around.stop - around.start) / (later_rooms + 1)
        shares.append(float((received / even).mean()))
    return float(np.mean(shares))
