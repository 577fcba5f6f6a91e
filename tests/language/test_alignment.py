"""Claims about the alignment of tokens with word embeddings."""

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from rl_transformer import RLTransformerError
from rl_transformer.language import alignment
from rl_transformer.language.alignment import alignment_loss, alignment_schedule, word_centroids


def test_alignment_equals_a_loop_over_real_tokens_and_padding_contributes_nothing():
    torch.manual_seed(0)
    embedded = torch.randn(2, 4, 8)
    centroids = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    losses = []
    for row in range(2):
        for place in range(4):
            if real[row, place]:
                token = embedded[row, place]
                cosines = [float(token @ c / (token.norm() * c.norm())) for c in centroids]
                losses.append(-max(cosines))
    expected = sum(losses) / len(losses)
    assert alignment_loss(embedded, centroids, real).item() == pytest.approx(expected, abs=1e-6)
    padded = embedded.clone()
    padded[~real] = 1e3
    padded.requires_grad_()
    loss = alignment_loss(padded, centroids, real)
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert not padded.grad[~real].any()
    assert padded.grad[real].abs().sum() > 0


def test_centroids_are_k_means_of_directions_and_are_cached_by_content(monkeypatch):
    torch.manual_seed(0)
    words = torch.randn(60, 4) * torch.rand(60, 1) * 10
    found = word_centroids(words, 5)
    directions = torch.nn.functional.normalize(words, dim=1).numpy()
    expected = MiniBatchKMeans(5, random_state=0, n_init=1, batch_size=4096).fit(directions).cluster_centers_
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(found.numpy(), expected, atol=1e-6)
    monkeypatch.setattr(alignment, "require", lambda *a, **k: None)
    monkeypatch.setattr("sklearn.cluster.MiniBatchKMeans", None)  # a second time nothing is computed
    assert torch.equal(word_centroids(words, 5), found)
    with pytest.raises(TypeError):
        word_centroids(words + 1, 5)
    with pytest.raises(RLTransformerError, match="61 centroids of 60 words"):
        word_centroids(words, 61)


def test_the_weight_falls_as_in_reids_code():
    assert [round(alignment_schedule(step, 5000), 4) for step in (0, 2500, 5000)] == [0.9933, 0.5, 0.0067]
    assert alignment_schedule(50, 100) == pytest.approx(0.5)
    assert alignment_schedule(10**9, 1) == 0.0
