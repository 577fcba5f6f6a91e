"""Claims about acting on images: each image is encoded once, and that changes no action."""

import json

import numpy as np
import pytest
import torch

from rl_transformer.models.image_encoders import ImageEncoder
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import camera_data, untrained_policy

OPTIONS = {
    "nature": {"model": {"frame_stack": 4}},
    "impala": {"model": {"frame_stack": 2, "state_encoder": "impala"}},
    "sliding window": {"model": {"frame_stack": 2, "attention": "sliding_window"}},
    "cloning": {"model": {"conditions": []}},
    "window positions": {"model": {"frame_stack": 2, "timestep_embedding": "window"}},
}


def policy_of(name):
    return untrained_policy(camera_data(), **OPTIONS[name])


def play(policy, episode, others=0):
    """Return the actions and their probabilities in an episode, with further sessions in the same batch."""
    target = 3.0 if policy.spec.takes_target else None
    batch = policy.sessions([target] * (1 + others), list(range(1 + others)))
    results = []
    for t in range(len(episode.rewards)):
        observations = np.stack([episode.observations[t]] + [episode.observations[t] // (2 + i) for i in range(others)])
        actions, info = batch.act(batch.rows, observations, return_info=True)
        results.append((int(actions[0]), info[0]["action_probabilities"]))
        batch.observe(batch.rows, [episode.rewards[t]] * (1 + others))
    return results


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("others", [1, 2, 16])
def test_a_session_acts_the_same_to_the_bit_alone_and_among_others(name, others):
    policy = policy_of(name)
    episode = camera_data().trajectory(2)
    assert play(policy, episode, others) == play(policy, episode)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_image_is_encoded_once(name, monkeypatch):
    policy = policy_of(name)
    episode = camera_data().trajectory(2)
    encoded = []
    genuine = ImageEncoder.encode_sessions
    monkeypatch.setattr(
        ImageEncoder, "encode_sessions", lambda self, images: encoded.append(len(images)) or genuine(self, images)
    )
    monkeypatch.setattr(ImageEncoder, "forward", None)  # the encoder does not run over windows
    play(policy, episode)
    assert encoded == [1] * len(episode.rewards)


@pytest.mark.parametrize("name", ["nature", "impala", "cloning", "window positions"])
def test_the_actions_are_those_of_the_model_on_whole_windows(name):
    """For every timestep, before and after the context is full, against `predict_actions` on a training window."""
    data = camera_data()
    policy = policy_of(name)
    context = policy.spec.context_length
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, context, torch.device("cpu"))
    index = int(np.argmax(data.lengths))
    episode = data.trajectory(index)
    assert len(episode.rewards) > context
    target = float(data.episode_returns[index])
    session = policy.session(target if policy.spec.takes_target else None)
    for t in range(len(episode.rewards)):
        _, info = session.act(episode.observations[t], return_info=True)
        session.observe(float(episode.rewards[t]), action=int(episode.actions[t]))
        start = max(0, t + 1 - context)
        window = gatherer.gather(WindowIndex(np.array([data.offsets[index] + start]), np.array([index])))
        with torch.inference_mode():
            expected = policy.model.predict_actions(*window.inputs)[0, t - start].softmax(-1)
        np.testing.assert_allclose(info["action_probabilities"], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_restored_session_goes_on_to_the_bit(name):
    """The state holds images and no tokens, which are computed anew."""
    policy = policy_of(name)
    episode = camera_data().trajectory(2)
    whole = play(policy, episode)
    session = policy.session(3.0 if policy.spec.takes_target else None)
    for t in range(len(episode.rewards)):
        session = policy.restore(json.loads(json.dumps(session.state())))
        action, info = session.act(episode.observations[t], return_info=True)
        assert (int(action), info["action_probabilities"]) == whole[t]
        session.observe(float(episode.rewards[t]))


def test_the_tokens_of_a_session_survive_growth_and_shrinking():
    policy = policy_of("nature")
    episode = camera_data().trajectory(2)
    whole = play(policy, episode)
    batch = policy.sessions([3.0], [0])
    for t in range(len(episode.rewards)):
        (actions, info) = batch.act([0], episode.observations[t][None], return_info=True)
        assert (int(actions[0]), info[0]["action_probabilities"]) == whole[t]
        batch.observe([0], [episode.rewards[t]])
        if t == 1:
            more = batch.add([1.0] * 9, list(range(9)))
        if t == 3:
            batch.close(more)
