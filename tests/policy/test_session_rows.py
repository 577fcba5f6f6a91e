"""Claims about the rows of a batch of sessions: a closed one never acts, and nothing of an episode reaches the next one."""

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from tests.policy.kinds import KINDS
from tests.toys import point_data, untrained_policy


@pytest.fixture(scope="module")
def sampling():
    return untrained_policy(point_data(), **KINDS["gaussian sample"])


def test_one_closed_session_among_open_ones_is_refused(sampling):
    sessions = sampling.sessions([5.0, 5.0], [0, 1])
    sessions.close([1])
    with pytest.raises(RLTransformerError, match="session 1 is closed"):
        sessions.act([0, 1], np.zeros((2, 2)))
    assert len(sessions.act([0], np.zeros((1, 2)))) == 1


def test_an_episode_after_a_reset_draws_what_a_new_session_with_its_seed_draws(sampling):
    sessions = sampling.sessions([5.0], [0])
    for _ in range(3):
        sessions.act([0], np.zeros((1, 2)))
        sessions.observe([0], [0.5])
    sessions.reset([0], [5.0], [7])
    new = sampling.sessions([5.0], [7])
    for _ in range(3):
        assert sessions.act([0], np.zeros((1, 2))).tolist() == new.act([0], np.zeros((1, 2))).tolist()
        sessions.observe([0], [0.5])
        new.observe([0], [0.5])


def test_a_missing_reward_is_charged_once_and_never_to_the_next_episode(sampling):
    session = sampling.sessions([5.0], [0])
    for _ in range(2):
        session.act([0], np.zeros((1, 2)))
        session.observe([0], [None])
    session.observe_late([0], [0.25])
    session.observe_late([0], [0.25])
    with pytest.raises(RLTransformerError, match="no reward of session 0 is missing"):
        session.observe_late([0], [0.25])
    assert session.return_to_go.tolist() == [4.5]
    session.act([0], np.zeros((1, 2)))
    session.observe([0], [None])
    session.reset([0], [5.0], [1])
    with pytest.raises(RLTransformerError, match="no reward of session 0 is missing"):
        session.observe_late([0], [0.25])
    assert session.return_to_go.tolist() == [5.0]
