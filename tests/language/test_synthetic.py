"""Claims about random sequences (Wang et al. 2024): their transitions, their entropy, and that they can be learned."""

import math

import numpy as np
import pytest
import torch

from rl_transformer.language.config import SyntheticConfig, SyntheticPretrainConfig
from rl_transformer.language.pretrain import pretrain, read_report
from rl_transformer.language.synthetic import RandomSequences


def sequences_of(batch_size=1, **options):
    return RandomSequences(SyntheticConfig(**options), batch_size=batch_size, seed=0, device=torch.device("cpu"))


def test_chains_have_the_published_transitions():
    sequences = sequences_of(batch_size=400, states=7, length=200, temperature=0.5)
    for state in range(7):
        # The paper's code seeds the transitions from a state with 666 + 1 + state.
        scores = np.random.default_rng(666 + 1 + state).random(7) / 0.5
        assert np.allclose(sequences.transitions[state], np.exp(scores) / np.exp(scores).sum())
    drawn = sequences.gather(sequences.draw(1)).numpy()
    assert drawn.shape == (400, 201)
    counts = np.zeros((7, 7))
    np.add.at(counts, (drawn[:, :-1].ravel(), drawn[:, 1:].ravel()), 1)
    assert np.abs(counts / counts.sum(1, keepdims=True) - sequences.transitions).max() < 0.02
    first = np.random.default_rng(666).random(7) / 0.5
    assert np.abs(np.bincount(drawn[:, 0], minlength=7) / 400 - np.exp(first) / np.exp(first).sum()).max() < 0.08
    again = sequences.gather(sequences.draw(1)).numpy()
    assert np.array_equal(drawn, again)


def test_the_control_is_uniform_and_entropy_is_the_lowest_possible_loss():
    assert sequences_of(uri="iid", states=8, length=100).entropy() == pytest.approx(math.log(8))
    # Published chains of 100 states at temperature 1 are almost uniform: perplexity 96.05 of 100.
    assert math.exp(sequences_of(length=4).entropy()) == pytest.approx(96.05, abs=0.1)
    assert 0 <= sequences_of(temperature=1e-4, states=5).entropy() < 1e-3


def test_a_model_learns_a_strong_chain(tmp_path):
    config = SyntheticPretrainConfig(output=str(tmp_path / "run"))
    config.dataset.states = 6
    config.dataset.temperature = 0.05
    config.dataset.length = 32
    config.model.hidden_size = 16
    config.model.n_layer = 1
    config.model.dropout = 0.0
    config.training.train_steps = 150
    config.training.batch_size = 16
    config.training.learning_rate = 1e-2
    config.training.warmup_steps = 10
    config.training.threads = 1
    report = read_report(pretrain(config))
    assert report["entropy"] < 0.7  # nats, of log 6 = 1.8
    assert report["fresh_loss"] < report["entropy"] + 0.15
