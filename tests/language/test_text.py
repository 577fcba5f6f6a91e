"""Claims about text: it is read whole and in order, cached as tokens, and drawn by seed and step."""

import json

import numpy as np
import pytest
import torch
import transformers

from rl_transformer import RLTransformerError
from rl_transformer.language.config import TextConfig
from rl_transformer.language.pretrain import make_tokenizer
from rl_transformer.language.text import TextSequences, cached, read_text, tokenized
from rl_transformer.models.huggingface.source import load_tokenizer
from tests.language.samples import TEXT


def test_sequences_are_a_function_of_seed_and_step_and_begin_anywhere():
    tokens = np.arange(50)
    options = {"batch_size": 40, "seed": 3, "device": torch.device("cpu")}
    sequences = TextSequences(tokens, length=5, **options)
    one = sequences.gather(sequences.draw(1))
    again = sequences.gather(sequences.draw(1))
    other = sequences.gather(sequences.draw(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one == one[:, :1] + torch.arange(5)).all()
    starts = np.concatenate([sequences.draw(step) for step in range(50)])
    assert set(starts) == set(range(46))
    with pytest.raises(RLTransformerError, match="fewer than a sequence"):
        TextSequences(tokens, length=51, **options)


def test_text_is_read_whole_in_order_and_cached_as_tokens(tmp_path):
    for name, content in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "no")):
        (tmp_path / name).write_text(content)
    assert read_text(tmp_path) == "first\nsecond"
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RLTransformerError, match="UTF-8"):
        read_text(tmp_path)
    tokenizer = make_tokenizer(TEXT, TextConfig(vocabulary=300))
    tokens = tokenized(TEXT, tokenizer.backend_tokenizer)
    assert tokenizer.decode(tokens) == TEXT
    assert np.array_equal(cached("tokens-x", lambda: tokens), cached("tokens-x", lambda: None))


def test_a_tokenizers_saved_settings_and_code_do_not_matter(language_model, tmp_path, monkeypatch):
    """One that was used to truncate, and names code of its own: the text is read whole, and nothing is run."""
    folder = language_model / "model"
    expected = tokenized(TEXT, load_tokenizer(str(language_model)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer("the cat", truncation=True, max_length=3)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "M", "auto_map": {"AutoTokenizer": ["m.M", None]}})
    )
    (folder / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *a: "y")
    assert np.array_equal(tokenized(TEXT, load_tokenizer(str(language_model))), expected)
    assert not (tmp_path / "ran").exists()
