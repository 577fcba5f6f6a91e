"""Claims about plugins in Python: an imported module counts as a plugin, and costs nothing in what is computed."""

import importlib
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import rl_transformer as rlt
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.trunk.interface import TRUNKS
from rl_transformer.trajectories.readers import READERS
from tests.toys import point_data, tiny_config


@pytest.fixture
def imported(here):
    """The user's module, imported as a user does it."""
    sys.path.insert(0, str(here))
    return importlib.import_module("my_plugin")


def test_an_imported_module_owns_what_it_registers_and_nothing_else(imported):
    assert READERS.owner("xyz") == "my_plugin"
    assert HEADS.owner("my_head") == "my_plugin"
    for registry in (READERS, HEADS, ENCODERS, TRUNKS):
        owners = {registry.owner(name) for name in registry.names()}
        assert owners == {"rl_transformer", "my_plugin"}


def test_what_an_imported_module_breaks_is_named(imported, monkeypatch):
    monkeypatch.setattr(imported.MyHead, "loss", lambda self, parameters, actions: parameters.sum())
    config = tiny_config("run", model={"action_head": "my_head"})
    with pytest.raises(rlt.RLTransformerError, match=r"loss\(\) has shape \(\), not \(2, 3\)") as caught:
        rlt.train(config, dataset=point_data())
    assert caught.value.where == "plugin my_plugin"
    assert not Path("run").exists()


def test_a_reloaded_module_replaces_its_parts(imported):
    before = HEADS.get("my_head", where="test")
    gym.registry.pop("my_plugin/Drive-v0")  # gymnasium warns about an environment that is registered again
    again = importlib.reload(imported)
    assert HEADS.get("my_head", where="test") is again.MyHead is not before


SAME = """
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.heads.gaussian import GaussianHead
from rl_transformer.models.trunk.gpt2 import policy_trunk
from rl_transformer.models.trunk.interface import TRUNKS
from torch import nn

class SameHead(GaussianHead):
    pass

HEADS.register("same_head", SameHead)
ENCODERS.register("same_encoder", lambda config: nn.Linear(config.state_dim, config.hidden_size))
TRUNKS.register("same_trunk", lambda config: policy_trunk(config))
"""


def test_parts_that_compute_the_same_as_ours_train_the_same_policy_bit_by_bit(here):
    """The checks of a plugin leave no trace: no random draw, and no mode of a module."""
    (here / "same.py").write_text(SAME)
    sys.path.insert(0, str(here))
    importlib.import_module("same")
    parts = {"action_head": "same_head", "state_encoder": "same_encoder", "blocks": "same_trunk"}
    for attention in ("full", "sliding_window"):
        ours = rlt.train(
            tiny_config(f"ours-{attention}", model={"action_head": "gaussian", "attention": attention}),
            dataset=point_data(),
        )
        theirs = rlt.train(
            tiny_config(f"theirs-{attention}", model=parts | {"attention": attention}), dataset=point_data()
        )
        assert TRUNKS.is_from_plugin("same_trunk")
        for name in ("policy/policy.safetensors", "metrics.jsonl"):
            assert (theirs / name).read_bytes() == (ours / name).read_bytes()


def test_a_policy_of_a_users_trunk_without_attention_says_so(imported, capsys):
    from rl_transformer.cli.main import main
    from tests.plugins.conftest import train_words

    assert main(train_words("run", {"model.blocks": "my_trunk"})) == 0
    assert main(["attention", "run", "--data", "xyz:drives.jsonl"]) == 2
    assert "the trunk 'my_trunk' returns no attention weights" in capsys.readouterr().err


CACHE = """
from rl_transformer.models.trunk.gpt2 import DecisionTransformerGPT2Model
from rl_transformer.models.trunk.interface import TRUNKS

class Doubling(DecisionTransformerGPT2Model):
    def decode_step(self, tokens, cache):
        return super().decode_step(2 * tokens, cache)

TRUNKS.register("doubling", lambda config: Doubling(config, with_tables=False))
"""


def test_a_trunk_whose_cache_computes_other_numbers_is_refused_before_it_is_trained(here):
    (here / "cache.py").write_text(CACHE)
    sys.path.insert(0, str(here))
    importlib.import_module("cache")
    config = tiny_config("run", model={"blocks": "doubling", "attention": "sliding_window"})
    with pytest.raises(
        rlt.RLTransformerError, match=r"run\(\) and decode_step\(\) compute different numbers"
    ) as caught:
        rlt.train(config, dataset=point_data())
    assert caught.value.where == "plugin cache"
    assert not Path("run").exists()
