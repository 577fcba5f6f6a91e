"""Claims about the n-gram model that language models are compared with (language/kneser_ney.py)."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from rl_transformer.language.kneser_ney import KneserNey, discounts


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_a_distribution_after_every_context(order):
    words = np.random.default_rng(0).integers(0, 9, 400).tolist()
    model = KneserNey(words, order, 12)  # three words were never seen
    for context in ((), (1,), (2, 3), (11, 2), (11, 11)):
        given = context[len(context) - (order - 1) :] if order > 1 else ()
        assert sum(model.probability(given, word) for word in range(12)) == pytest.approx(1)
        assert model.probability(given, 11) > 0


def test_kneser_ney_equals_the_formulas_by_hand():
    """A bigram model of a short text, from the formulas of Chen and Goodman (1999), section 3."""
    words = list("abracadabraabracadabrx")
    model = KneserNey(words, 2, 6)
    pairs = Counter(itertools.pairwise(words))
    kinds = Counter(second for _, second in pairs)  # how many different letters stand before
    pair_discounts = discounts(pairs)
    kind_discounts = discounts(kinds)

    def taken(discount, count):
        return discount[min(count, 3) - 1] if count else 0

    def unigram(word):
        total = sum(kinds.values())
        rest = sum(taken(kind_discounts, c) for c in kinds.values()) / total
        return max(kinds[word] - taken(kind_discounts, kinds[word]), 0) / total + rest / 6

    def bigram(before, word):
        after = {b: c for (a, b), c in pairs.items() if a == before}
        count = after.get(word, 0)
        total = sum(after.values())
        rest = sum(taken(pair_discounts, c) for c in after.values()) / total
        return max(count - taken(pair_discounts, count), 0) / total + rest * unigram(word)

    for before, word in (("a", "b"), ("b", "r"), ("a", "x"), ("r", "x")):
        assert model.probability((before,), word) == pytest.approx(bigram(before, word))
    expected = -sum(math.log(bigram(a, b)) for a, b in itertools.pairwise(words))
    assert model.surprise(words) == pytest.approx(expected)
