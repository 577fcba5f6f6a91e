"""Interpolated modified Kneser-Ney, the n-gram model that a small language model has to beat.

Formulas: Chen and Goodman 1999, section 3; discounts from counts of counts, order by order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

Gram = tuple[Hashable, ...]


class KneserNey:
    """P(word | last order - 1 words), from a sequence of words.

    Args:
        words: The training text as words or tokens.
        order: Length of the longest n-grams, 1 or more.
        vocabulary: Number of words that can occur, also those that the training text does not have.
    """

    def __init__(self, words: Sequence[Hashable], order: int, vocabulary: int) -> None:
        self.order = order
        self.vocabulary = vocabulary
        counts: dict[int, Counter[Gram]] = {order: Counter(zip(*(words[i:] for i in range(order)), strict=False))}
        for n in range(order - 1, 0, -1):  # how many different words come before an n-gram
            counts[n] = Counter(gram[1:] for gram in counts[n + 1])
        self._counts = counts
        self._discounts = {n: discounts(counts[n]) for n in counts}
        self._contexts = {n: _context_counts(counts[n]) for n in counts}

    def probability(self, context: Gram, word: Hashable) -> float:
        """Return P(word | context), context a tuple of order - 1 words or fewer."""
        probability = 1 / self.vocabulary
        for n in range(1, len(context) + 2):
            before = context[len(context) - n + 1 :]
            totals, kinds = self._contexts[n]
            total = totals.get(before)
            if total is None:
                break
            count = self._counts[n].get((*before, word), 0)
            discount = self._discounts[n]
            left_over = sum(d * k for d, k in zip(discount, kinds[before], strict=True)) / total
            own = max(count - discount[min(count, 3) - 1], 0) / total * (count > 0)
            probability = own + left_over * probability
        return probability

    def surprise(self, words: Sequence[Hashable]) -> float:
        """Return the total surprise (nats) of all but the first word."""
        return sum(
            -math.log(self.probability(tuple(words[max(0, i - self.order + 1) : i]), words[i]))
            for i in range(1, len(words))
        )


def _context_counts(counts: Mapping[Gram, int]) -> tuple[Counter[Gram], dict[Gram, list[int]]]:
    """Return for each context its total count, and how many words follow it once, twice, and more often."""
    totals: Counter[Gram] = Counter()
    kinds: dict[Gram, list[int]] = defaultdict(lambda: [0, 0, 0])
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]][min(count, 3) - 1] += 1
    return totals, kinds


def discounts(counts: Mapping[Gram, int]) -> list[float]:
    """Return D1, D2 and D3+ from the numbers of n-grams that were seen one to four times."""
    seen = Counter(min(count, 5) for count in counts.values())
    n = [max(seen[i], 1) for i in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1])
    return [min(max(i + 1 - (i + 2) * y * n[i + 1] / n[i], 0.1), i + 1) for i in range(3)]
