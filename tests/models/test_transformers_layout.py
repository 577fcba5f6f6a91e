"""Claims about transformers' Decision Transformer: the same numbers, from and into the same folders."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rl_transformer import (
    DecisionTransformerConfig,
    DecisionTransformerGPT2Model,
    DecisionTransformerModel,
    RLTransformerError,
    load_policy,
    train,
)
from rl_transformer.config import PRESETS, preset
from rl_transformer.models.config import ACTIVATIONS, hf_field_names
from tests.models.small_models import inputs, make
from tests.toys import camera_data, point_data


def random_config(random):
    heads = int(random.choice([1, 2, 4]))
    return {
        "state_dim": int(random.integers(1, 12)),
        "act_dim": int(random.integers(1, 6)),
        "hidden_size": heads * int(random.choice([4, 8])),
        "max_ep_len": 64,
        "action_tanh": bool(random.integers(2)),
        "n_positions": 128,
        "n_layer": int(random.integers(1, 4)),
        "n_head": heads,
        "n_inner": None if random.integers(2) else 24,
        "activation_function": str(random.choice(ACTIVATIONS)),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
        "initializer_range": float(random.choice([0.02, 0.5])),
        "scale_attn_weights": bool(random.integers(2)),
        "scale_attn_by_inverse_layer_idx": bool(random.integers(2)),
        "reorder_and_upcast_attn": bool(random.integers(2)),
        "bos_token_id": None,
        "eos_token_id": None,
    }


@pytest.mark.parametrize("seed", range(40))
def test_outputs_equal_those_of_transformers(seed, tmp_path):
    import transformers

    random = np.random.default_rng(seed)
    values = random_config(random)
    torch.manual_seed(seed)
    theirs_config = transformers.DecisionTransformerConfig(**values)
    theirs_config._attn_implementation = "eager"
    theirs = transformers.DecisionTransformerModel(theirs_config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = DecisionTransformerModel.from_pretrained(tmp_path / "theirs").eval()

    batch = int(random.integers(1, 9))
    length = int(random.integers(1, 21))
    given = {
        "states": torch.randn(batch, length, values["state_dim"]),
        "actions": torch.randn(batch, length, values["act_dim"]),
        "rewards": torch.randn(batch, length, 1),
        "returns_to_go": torch.randn(batch, length, 1),
        "timesteps": torch.randint(0, 64, (batch, length)),
        "attention_mask": torch.ones(batch, length),
    }
    real = random.integers(1, length + 1, batch)
    padding = random.choice(["left", "right", "none"])
    for row, count in enumerate(real):
        if padding == "left":
            given["attention_mask"][row, : length - count] = 0
        elif padding == "right":
            given["attention_mask"][row, count:] = 0
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = theirs(**given, **options)
        found = ours(**given, **options)
        plain = theirs(**given, return_dict=False)
    valid = given["attention_mask"].bool()
    tokens = valid.repeat_interleave(3, dim=1)
    for name in ("state_preds", "action_preds", "return_preds"):
        torch.testing.assert_close(found[name][valid], expected[name][valid], atol=1e-5, rtol=1e-5)
        assert torch.isfinite(found[name]).all()
    torch.testing.assert_close(
        found.last_hidden_state[tokens], expected.last_hidden_state[tokens], atol=1e-5, rtol=1e-5
    )
    assert len(found.hidden_states) == len(expected.hidden_states) == values["n_layer"] + 1
    for mine, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[tokens], other[tokens], atol=1e-5, rtol=1e-5)
    for mine, other in zip(found.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(mine.transpose(1, 2)[tokens], other.transpose(1, 2)[tokens], atol=1e-5, rtol=1e-5)
    for mine, other in zip(ours(**given, return_dict=False), plain, strict=True):
        torch.testing.assert_close(mine[valid], other[valid], atol=1e-5, rtol=1e-5)

    ours.save_pretrained(tmp_path / "ours")
    back, notes = transformers.DecisionTransformerModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        again = back.eval()(**given)
    torch.testing.assert_close(again.action_preds[valid], found.action_preds[valid], atol=1e-5, rtol=1e-5)


def test_a_bare_trunk_equals_that_of_transformers(tmp_path):
    import transformers

    values = {
        "hidden_size": 16,
        "n_layer": 2,
        "n_head": 2,
        "vocab_size": 11,
        "n_positions": 32,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    theirs = transformers.DecisionTransformerGPT2Model(transformers.DecisionTransformerConfig(**values)).eval()
    theirs.save_pretrained(tmp_path / "trunk")
    ours = DecisionTransformerGPT2Model.from_pretrained(tmp_path / "trunk").eval()
    words = torch.randint(0, 11, (2, 7))
    torch.testing.assert_close(ours(words)[0], theirs(words)[0], atol=1e-6, rtol=0)
    embedded = torch.randn(2, 7, 16)
    places = torch.randint(0, 32, (2, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    mine = ours(inputs_embeds=embedded, attention_mask=mask, position_ids=places)
    other = theirs(inputs_embeds=embedded, attention_mask=mask, position_ids=places)
    torch.testing.assert_close(mine[0][mask.bool()], other[0][mask.bool()], atol=1e-6, rtol=0)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.DecisionTransformerGPT2Model.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(back(words)[0], theirs(words)[0], atol=1e-6, rtol=0)
    with pytest.raises(RLTransformerError, match="past_key_values is not supported"):
        ours(words, past_key_values=object())
    with pytest.raises(RLTransformerError, match="encoder_hidden_states is not supported"):
        ours(words, encoder_hidden_states=embedded)


def test_weights_of_half_precision_are_read_as_float32(tmp_path):
    model = make("published")
    model.save_pretrained(tmp_path)
    weights = {name: t.bfloat16() for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = DecisionTransformerModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.predict_actions(*inputs(model.config)).dtype == torch.float32


def test_the_configuration_has_the_names_and_defaults_of_transformers():
    import transformers

    theirs = transformers.DecisionTransformerConfig()
    ours = DecisionTransformerConfig()
    for name in hf_field_names():
        assert getattr(theirs, name) == getattr(ours, name), name


def test_a_model_that_transformers_would_misread_is_not_saved_in_its_layout(tmp_path):
    for variant, name in (
        ("added condition", "condition_entry"),
        ("no condition", "conditions"),
        ("discrete", "action_head"),
        ("multi-discrete", "action_parts"),
        ("a wide condition", "condition_widths"),
    ):
        with pytest.raises(RLTransformerError, match=f"has no .*{name}"):
            make(variant).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_unreadable_model_folders_are_refused_by_name(tmp_path):
    model = make("published")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(RLTransformerError, match=r"config\.json: no such file"):
        DecisionTransformerModel.from_pretrained(tmp_path / "nothing")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(RLTransformerError, match=r"the file lacks encoder\.h\.2"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(RLTransformerError, match="model_type is 'gpt2'"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"junk")
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(RLTransformerError, match="cannot be read"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")


WRITABLE = {"gym": True, "key-to-door": True, "fast": False, "image": False, "atari": False}


@pytest.mark.parametrize("name", WRITABLE)
def test_the_presets_that_can_be_written_for_transformers_are_the_documented_ones(name, tmp_path):
    """README says for which presets a folder loads in transformers; the others refuse and name the reason."""
    config = preset(name)
    config.output = str(tmp_path / "run")
    config.dataset.uri = "memory"
    config.windows.context_length = 12
    config.training.train_steps = 1
    model = load_policy(train(config, dataset=camera_data() if name in ("image", "atari") else point_data())).model
    if WRITABLE[name]:
        model.save_pretrained(tmp_path / "hf")
        assert transformers.DecisionTransformerModel.from_pretrained(tmp_path / "hf").config.state_dim == 2
    else:
        with pytest.raises(RLTransformerError, match="transformers' Decision Transformer has no"):
            model.save_pretrained(tmp_path / "hf")


def test_every_preset_is_named_where_the_layout_is_documented():
    assert set(WRITABLE) == set(PRESETS)
