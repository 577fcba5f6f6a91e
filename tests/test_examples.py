"""Claims about the examples: they are short, they run, and they print what they promise."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
import transformers

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    """Import an example; its name may begin with a digit."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path):
    text = path.read_text()
    assert text.count("\n") <= 60
    assert text.startswith('"""')
    assert max(map(len, text.splitlines())) <= 120


def test_training_and_evaluation_end_with_a_table_of_every_target(tmp_path, capsys):
    example = load("01_train_and_evaluate")
    example.main(tmp_path / "run", num_episodes=20, train_steps=5)
    printed = capsys.readouterr().out
    assert "20 trajectories" in printed
    rows = re.findall(r"^ +(20|100|200|500) +\d+\.\d", printed, re.MULTILINE)
    assert rows == ["20", "100", "200", "500"]


def test_own_arrays_become_a_policy_whose_return_to_go_falls_by_what_is_observed(tmp_path, capsys):
    example = load("02_your_own_data")
    example.main(tmp_path / "run", num_days=20, train_steps=5)
    printed = capsys.readouterr().out
    left = [float(value) for value in re.findall(r"return still to come (-?\d+\.\d)", printed)]
    assert len(left) == 3
    assert left[1] - left[0] == pytest.approx(0.2, abs=0.11)  # the return-to-go rises by a cost of 0.2
    assert all(0 <= float(value) <= 1 for value in re.findall(r"heat (-?\d+\.\d+)", printed))


def test_the_comparison_prints_both_policies_for_both_seeds_and_the_caveat(tmp_path, capsys):
    example = load("03_compare_with_percent_bc")
    example.main(tmp_path, num_walks=200, train_steps=3, num_episodes=4)
    printed = capsys.readouterr().out
    assert re.search(r"Decision Transformer, target return 1 +\d+\.\d % success, seeds \[0, 1\]", printed)
    assert re.search(r"%BC, the successful walks +\d+\.\d % success, seeds \[0, 1\]", printed)
    assert "two seeds on one dataset establish nothing" in printed


def test_the_navigation_example_prints_both_losses_of_every_epoch_and_learns(capsys):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    load("navigation_t5").main(t5, epochs=3, episodes=100)
    printed = re.findall(r"epoch \d: loss (\d\.\d+), validation (\d\.\d+)", capsys.readouterr().out)
    assert len(printed) == 3
    training = [float(loss) for loss, _ in printed]
    validation = [float(loss) for _, loss in printed]
    assert training[2] < training[0]
    assert validation[2] < validation[0] < math.log(4)  # better than chance over four moves, and falling


def test_the_navigation_example_uses_the_imports_that_the_documentation_promises():
    text = (EXAMPLES / "navigation_t5.py").read_text()
    assert "from rl_transformer.models.decision_transformer import DecisionTransformer\n" in text
    assert "from rl_transformer.utils.data import BatchSampler, Dataset\n" in text
