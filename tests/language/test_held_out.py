"""Claims about measuring language models on held-out text."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rl_transformer import RLTransformerError
from rl_transformer.language.config import TextPretrainConfig
from rl_transformer.language.held_out import HeldOutText
from rl_transformer.language.pretrain import pretrain, read_report
from rl_transformer.models.huggingface.block_scale import block_scale
from rl_transformer.reproductions.run_cache import with_options

TEXT = "".join(f"The number {i} comes after {i - 1}, and before {i + 1}.\n" for i in range(400))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    (folder / "text.txt").write_text(TEXT)
    (folder / "held_out.txt").write_text(TEXT[:3_000])
    options = {
        "dataset.uri": str(folder / "text.txt"), "dataset.held_out": str(folder / "held_out.txt"), "dataset.vocabulary": 300,
        "dataset.length": 16, "training.train_steps": 30, "training.batch_size": 4, "training.warmup_steps": 2,
        "model.hidden_size": 16, "model.n_layer": 1,
    }  # fmt: skip
    return pretrain(with_options(TextPretrainConfig(output=str(folder / "run")), options))


def test_bits_per_byte_of_the_saved_model_are_those_of_its_training_and_shuffled_weights_need_more(run):
    text = HeldOutText(str(run), TEXT[:3_000])
    expected = read_report(run)["held_out_bits_per_byte"]
    assert text.bits_per_byte(16) == pytest.approx(expected, rel=1e-5)
    assert text.bits_per_byte(16, "shuffled") > expected
    assert text.bits_per_byte(2) != pytest.approx(expected, rel=1e-5)
    with pytest.raises(RLTransformerError, match="the model takes 2 to 16"):
        text.bits_per_byte(17)


def test_an_n_gram_model_is_measured_over_the_same_tokens(run):
    text = HeldOutText(str(run), TEXT[:3_000])
    assert text.kneser_ney_bits_per_byte(TEXT, 3) < text.kneser_ney_bits_per_byte(TEXT, 1)
    assert text.kneser_ney_bits_per_byte("other words", 1) > 0.9 * math.log2(300) / 8


def test_the_scale_of_the_blocks_is_that_of_what_they_add_to_tokens(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=1, vocab_size=20, n_positions=32))
    model.save_pretrained(tmp_path)
    scale = block_scale(str(tmp_path), "pretrained")
    assert scale > 0
    with torch.no_grad():
        for block in model.transformer.h:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.fill_(0.25)
    model.save_pretrained(tmp_path)
    assert block_scale(str(tmp_path), "pretrained") == pytest.approx(1.0)  # four parts add 0.25 each
