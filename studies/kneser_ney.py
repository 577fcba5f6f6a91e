"""Interpolated modified Kneser-Ney, the n-gram model that a small language model has to beat.

    python studies/kneser_ney.py --data TEXT --held-out TEXT --model RUN [--json FILE]

over the tokens of the run's own tokenizer, and beside it over words (between spaces; words that the text does not have
are <unk>, which is easier than spelling them, so its bits per byte flatter it). Formulas: Chen and Goodman 1999,
section 3; discounts from counts of counts, order by order.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

from rl_transformer.language.text import read_text, tokenized
from rl_transformer.models.huggingface.source import load_tokenizer
from rl_transformer.runtime.files import to_json

UNKNOWN = "<unk>"


class KneserNey:
    """P(word | last order - 1 words), from a sequence of words."""

    def __init__(self, words, order, vocabulary):
        self.order = order
        self.vocabulary = vocabulary
        # Lists by the length of the n-gram; index 0 is not used.
        self.counts = [None] * (order + 1)
        self.counts[order] = Counter(zip(*(words[i:] for i in range(order)), strict=False))
        for n in range(order - 1, 0, -1):  # how many different words come before an n-gram
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])
        self.discounts = [None] + [discounts(self.counts[n]) for n in range(1, order + 1)]
        self.totals = [None] * (order + 1)
        self.kinds = [None] * (order + 1)
        for n in range(1, order + 1):
            self.totals[n], self.kinds[n] = self._context_counts(self.counts[n])

    @staticmethod
    def _context_counts(counts):
        """Return for each context its total count, and how many words follow it once, twice, and more often."""
        totals = Counter()
        kinds = defaultdict(lambda: [0, 0, 0])
        for gram, count in counts.items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]][min(count, 3) - 1] += 1
        return totals, kinds

    def probability(self, context, word):
        """Return P(word | context), context a tuple of order - 1 words or fewer."""
        probability = 1 / self.vocabulary
        for n in range(1, len(context) + 2):
            before = context[len(context) - n + 1 :]
            total = self.totals[n].get(before)
            if total is None:
                break
            count = self.counts[n].get((*before, word), 0)
            discount = self.discounts[n]
            left_over = sum(d * k for d, k in zip(discount, self.kinds[n][before], strict=True)) / total
            own = max(count - discount[min(count, 3) - 1], 0) / total * (count > 0)
            probability = own + left_over * probability
        return probability

    def surprise(self, words):
        """Return the total surprise (nats) of all but the first word."""
        return sum(
            -math.log(self.probability(tuple(words[max(0, i - self.order + 1) : i]), words[i]))
            for i in range(1, len(words))
        )


def discounts(counts):
    """Return D1, D2 and D3+ from the numbers of n-grams that were seen one to four times."""
    seen = Counter(min(count, 5) for count in counts.values())
    n = [max(seen[i], 1) for i in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1])
    return [min(max(i + 1 - (i + 2) * y * n[i + 1] / n[i], 0.1), i + 1) for i in range(3)]


def measure(train, held_out, order, vocabulary, num_bytes):
    """Return perplexity and bits per byte of a held-out sequence."""
    surprise = KneserNey(train, order, vocabulary).surprise(held_out)
    return {
        "bits_per_byte": surprise / math.log(2) / num_bytes,
        "perplexity": math.exp(surprise / (len(held_out) - 1)),
        "vocabulary": vocabulary,
        "tokens": len(train),
        "held_out_tokens": len(held_out),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--model", required=True, help="run folder of rlt pretrain text, or a language model's folder")
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    train = read_text(args.data)
    held_out = read_text(args.held_out)
    num_bytes = len(held_out.encode())
    tokenizer = load_tokenizer(args.model)
    tokens = [tokenized(text, tokenizer).tolist() for text in (train, held_out)]
    vocabulary = set(train.split()) | {UNKNOWN}
    words = [[w if w in vocabulary else UNKNOWN for w in text.split()] for text in (train, held_out)]
    result = {
        "order": args.order,
        "bpe": measure(*tokens, args.order, tokenizer.get_vocab_size(), num_bytes),
        "words": measure(*words, args.order, len(vocabulary), num_bytes),
    }
    num_unknown = sum(word not in vocabulary for word in held_out.split())
    result["words"]["unknown"] = num_unknown / len(words[1])
    report = Path(args.model) / "report.json"
    if report.exists():
        result["language_model"] = json.loads(report.read_text())
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(to_json(result))


if __name__ == "__main__":
    main()
