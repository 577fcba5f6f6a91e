"""Claims about presets: they can be used as they are, and the published one is the published recipe."""

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.config import PRESETS, RunConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_free_of_contradictions(name):
    config = preset(name)
    config.output = "x"
    config.dataset.uri = "rlt:y"
    config.check()


def test_a_preset_is_a_fresh_configuration_every_time():
    changed = preset("gym")
    changed.model.conditions.append("cost_to_go")
    changed.evaluation.targets["cost_to_go"] = 1.0
    assert preset("gym").model.conditions == ["return_to_go"]
    assert preset("gym").evaluation.targets == {}


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(RLTransformerError, match="no preset 'gim'") as error:
        preset("gim")
    for name in PRESETS:
        assert name in error.value.fix


def test_a_preset_of_a_file_that_is_no_text_is_refused():
    with pytest.raises(RLTransformerError, match="no preset"):
        RunConfig.from_dict({"preset": [[]]}, where="it.yaml").check()


def test_the_gym_preset_is_the_published_recipe():
    """The values of Chen et al. (2021), appendix, and of kzl `experiment.py`."""
    config = preset("gym")
    published = {
        "training.train_steps": 100_000,
        "training.batch_size": 64,
        "training.learning_rate": 1e-4,
        "training.warmup_steps": 10_000,
        "training.schedule": "constant",
        "training.weight_decay": 1e-4,
        "training.decay": "all",
        "training.betas": (0.9, 0.999),
        "training.max_gradient_norm": 0.25,
        "model.n_layer": 3,
        "model.n_head": 1,
        "model.hidden_size": 128,
        "model.n_inner": None,
        "model.activation_function": "relu",
        "model.resid_pdrop": 0.1,
        "model.embd_pdrop": 0.1,
        "model.attn_pdrop": 0.1,
        "model.max_ep_len": 1000,
        "windows.context_length": 20,
        "windows.start": "any",
        "windows.return_balance": 0,
        "returns.scale": 1000,
        "returns.update": "subtract",
    }
    assert {name: config.get(name) for name in published} == published
