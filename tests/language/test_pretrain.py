"""Claims about language models of our own: what they load as, how they are measured, and that they resume."""

import json
import math

import numpy as np
import pytest
import torch
import transformers

from rl_transformer import RLTransformerError
from rl_transformer.language.language_model import total_nll
from rl_transformer.language.pretrain import pretrain, read_report
from rl_transformer.language.text import tokenized
from rl_transformer.models.huggingface.source import load_tokenizer
from tests.language.samples import TEXT, text_config


def test_a_pretrained_model_loads_in_transformers_with_the_same_loss(language_model):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(language_model / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(language_model / "model")
    assert tokenizer.decode(tokenizer("the old dog saw").input_ids) == "the old dog saw"
    tokens = tokenized(TEXT, load_tokenizer(str(language_model)))
    assert tokens.tolist() == tokenizer(TEXT).input_ids
    report = read_report(language_model)
    # Once more by transformers, naively: sequences of 16 overlap by 8, and a token is predicted from the
    # sequence in which at least 8 stand before it.
    nll = 0.0
    with torch.inference_mode():
        for place in range(1, len(tokens)):
            start = 0 if place <= 16 else (place - 16 + 7) // 8 * 8
            seen = torch.tensor(tokens[start:place].astype(np.int64))[None]
            nll -= theirs(seen).logits[0, -1].log_softmax(-1)[tokens[place]].item()
    assert report["held_out_perplexity"] == pytest.approx(math.exp(nll / (len(tokens) - 1)), rel=1e-4)
    assert report["held_out_bits_per_byte"] == pytest.approx(nll / math.log(2) / len(TEXT.encode()), rel=1e-4)


def test_every_token_but_the_first_is_counted_once():
    """With a model that gives every token the same likelihood the total tells how many were counted."""

    class Level(torch.nn.Linear):
        def token_nlls(self, sequences):
            return torch.ones(len(sequences), sequences.shape[1] - 1)

    for count in (2, 9, 16, 17, 18, 40, 41, 200):
        assert total_nll(Level(1, 1), np.zeros(count, np.int32), 16) == count - 1


def test_a_stopped_pretraining_continues_exactly_and_learns(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = {"schedule": "constant", "learning_rate": 3e-3}
    whole = pretrain(text_config(tmp_path / "whole", text, train_steps=60, **options))
    pretrain(text_config(tmp_path / "half", text, train_steps=30, **options))
    extended = text_config(tmp_path / "half", text, train_steps=60, **options)
    with pytest.raises(RLTransformerError, match="not empty"):
        pretrain(extended)
    half = pretrain(extended, resume=True)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, half)]
    assert weights[0] == weights[1]
    assert pretrain(extended, resume=True) == half  # finished: nothing changes
    other = text_config(tmp_path / "half", text, train_steps=60, schedule="constant", learning_rate=1e-3)
    with pytest.raises(RLTransformerError, match="learning_rate"):
        pretrain(other, resume=True)
    assert read_report(whole)["held_out_perplexity"] < 60  # of 300 tokens


def test_bad_text_and_bad_numbers_are_refused_by_name(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("t")
    for option, value, message in (
        ("dataset.uri", str(tmp_path / "empty.txt"), "white space"),
        ("dataset.held_out", str(tmp_path / "short.txt"), "only one token"),
        ("training.learning_rate", -1.0, "training.learning_rate: -1.0 is out of bounds"),
        ("training.betas", (1.0, 0.9), "training.betas: 1.0 is out of bounds"),
        ("training.ema_decay", 1.5, "training.ema_decay: 1.5 is out of bounds"),
        ("dataset.length", 1, "dataset.length: 1 is out of bounds"),
    ):
        config = text_config(tmp_path / "bad", text)
        config.set(option, value)
        with pytest.raises(RLTransformerError, match=message):
            pretrain(config)


SIZES = {"dataset.vocabulary": 300, "dataset.length": 16, "model.hidden_size": 16, "training.batch_size": 4}
SYNTHETIC = {"dataset.states": 10, "dataset.length": 8, "training.batch_size": 4}


def options_of(values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def test_the_command_trains_and_reports_what_it_measured(tmp_path, capsys):
    from rl_transformer.cli.main import main

    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(TEXT)
    named = ["--data", str(texts), "--held-out", str(texts)]
    text = ["pretrain", "text", *named, "--train-steps", "3", *options_of(SIZES)]
    assert main([*text, "--output", str(tmp_path / "lm"), "--json", str(tmp_path / "lm.json")]) == 0
    assert "held out bits per byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "lm.json").read_text())["train_steps"] == 3
    synthetic = ["pretrain", "synthetic", "--train-steps", "2", *options_of(SYNTHETIC)]
    assert main([*synthetic, "--output", str(tmp_path / "synthetic")]) == 0
    for bad, message in (
        (["pretrain", "text", "--output", str(tmp_path / "x")], "no text is named"),
        (["pretrain", "text", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "x")], "no text"),
        ([*text, "--output", str(tmp_path / "lm")], "not empty"),
        ([*synthetic, "--output", str(tmp_path / "x"), "--training.trunk", "frozen"], "no effect"),
        ([*synthetic, "--output", str(tmp_path / "x"), "--dataset.temperature", "0"], "out of bounds"),
    ):
        assert main(bad) == 2
        assert message in capsys.readouterr().err
