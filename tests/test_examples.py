"""Claims about the examples: they run, with the model they name, and learn."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers

EXAMPLE = Path(__file__).parents[2] / "examples" / "navigation_t5.py"


@pytest.fixture
def navigation():
    spec = importlib.util.spec_from_file_location("navigation_t5", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_navigation_example_prints_both_losses_an_epoch_and_learns(navigation, capsys):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    navigation.main(
        transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)), epochs=2, episodes=150, steps=50
    )
    told = re.findall(r"epoch \d: training loss (\d\.\d+), validation loss (\d\.\d+)", capsys.readouterr().out)
    assert len(told) == 2
    assert float(told[-1][1]) < float(told[0][0])  # below where it began


def test_the_example_is_short_and_uses_the_import_it_promises():
    text = EXAMPLE.read_text()
    assert text.count("\n") <= 60
    assert "from rl_transformer.models.decision_transformer import DecisionTransformer\n" in text
