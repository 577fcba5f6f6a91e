"""Interpolated modified Kneser-Ney, the n-gram model that a small language model has to beat.

    python studies/kneser_ney.py --data TEXT --held-out TEXT --model RUN [--json FILE]

over the tokens of the run's own tokenizer, and beside it over words (between spaces; words that the text does not have
are <unk>, which is easier than spelling them, so its bits per byte flatter it).
"""

import argparse
import json
import math
from pathlib import Path

from rl_transformer.language.kneser_ney import KneserNey
from rl_transformer.language.text import read_text, tokenized
from rl_transformer.models.huggingface.source import load_tokenizer
from rl_transformer.runtime.files import to_json

UNKNOWN = "<unk>"


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
