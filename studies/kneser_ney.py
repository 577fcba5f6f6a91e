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

from rl_transformer.runtime.files import to_json
from rl_transformer.models.huggingface.source import load_tokenizer
from rl_transformer.language.text import read_text, tokenized


class KneserNey:
    """P(word | last order - 1 words), from a sequence of words."""

    def __init__(self, words, order, vocabulary):
        self.order, self.vocabulary = order, vocabulary
        counts = [None] * (order + 1)
        counts[order] = Counter(zip(*(words[i:] for i in range(order)), strict=False))
        for n in range(order - 1, 0, -1):  # how many different words stand before an n-gram
            counts[n] = Counter(gram[1:] for gram in counts[n + 1])
        self.counts, self.discounts = counts, [None] + [discounts(counts[n]) for n in range(1, order + 1)]
        self.totals, self.kinds = [None] * (order + 1), [None] * (order + 1)
        for n in range(1, order + 1):
            totals, kinds = Counter(), defaultdict(lambda: [0, 0, 0])
            for gram, count in counts[n].items():
                totals[gram[:-1]] += count
                kinds[gram[:-1]][min(count, 3) - 1] += 1
            self.totals[n], self.kinds[n] = totals, kinds

    def probability(self, context, word):
        """Return P(word | context), context a tuple of order - 1 words or fewer."""
        probability = 1 / self.vocabulary
        for n in range(1, len(context) + 2):
            before = context[len(context) - n + 1 :]
            total = self.totals[n].get(before)
            if total is None:
                break
            count = self.counts[n].get((*before, word), 0)
            taken = self.discounts[n]
            left = sum(d * k for d, k in zip(taken, self.kinds[n][before], strict=True)) / total
            probability = max(count - taken[min(count, 3) - 1], 0) / total * (count > 0) + left * probability
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


def measure(train, held_out, order, vocabulary, size):
    surprise = KneserNey(train, order, vocabulary).surprise(held_out)
    return {
        "bits_per_byte": surprise / math.log(2) / size,
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
    train, held_out = read_text(args.data), read_text(args.held_out)
    size, tokenizer = len(held_out.encode()), load_tokenizer(args.model)
    tokens = [tokenized(text, tokenizer).tolist() for text in (train, held_out)]
    known = set(train.split()) | {"<unk>"}
    words = [[w if w in known else "<unk>" for w in text.split()] for text in (train, held_out)]
    found = {
        "order": args.order,
        "bpe": measure(*tokens, args.order, tokenizer.get_vocab_size(), size),
        "words": measure(*words, args.order, len(known), size),
    }
    found["words"]["unknown"] = sum(w not in known for w in held_out.split()) / len(words[1])
    report = Path(args.model) / "report.json"
    if report.exists():
        found["language_model"] = json.loads(report.read_text())
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(to_json(found))


if __name__ == "__main__":
    main()
