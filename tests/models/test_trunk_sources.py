"""Claims about trunks by name: their own weights or a control's, from safetensors alone, and no code is run."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models.huggingface.source import TrunkSource, shuffle_matrices
from tests.models.tiny_transformers import SIZES, WIDTH, saved, transformer
from tests.toys import point_data, tiny_config


def test_a_saved_gpt2_gives_its_own_hidden_states_in_our_blocks(tmp_path):
    """Our blocks take GPT-2's weights: the same numbers, without transformers where the policy acts."""
    gpt2 = saved("gpt2", tmp_path / "gpt2")
    for positions in ("off", "tokens"):
        config = tiny_config(
            tmp_path / positions,
            model={"trunk": str(tmp_path / "gpt2"), "positions": positions},
            training={"trunk": "frozen"},
        )
        policy = load_policy(train(config, dataset=point_data()))
        assert (policy.spec.model.trunk, policy.spec.model.hidden_size, policy.spec.model.n_head) == (None, WIDTH, 2)
        tokens = torch.randn(2, 9, WIDTH)
        reference = copy.deepcopy(gpt2).eval()
        if positions == "off":
            reference.transformer.wpe.weight.data.zero_()
        expected = reference.transformer(inputs_embeds=tokens).last_hidden_state
        assert (policy.model.encoder.run(tokens, None).last_hidden_state - expected).abs().max() <= 1e-5
        assert (policy.model.encoder.hidden_at(tokens, slice(None)) - expected).abs().max() <= 1e-5
        shifted = torch.cat([torch.ones(2, 3, WIDTH), tokens], dim=1)  # left padding
        valid = torch.arange(12) >= 3
        padded = policy.model.encoder.run(shifted, valid.expand(2, 12)).last_hidden_state[:, 3:]
        assert (padded - expected).abs().max() <= 1e-5


def test_the_timestep_table_may_start_from_the_trunks_positions_repeated(tmp_path):
    gpt2 = saved("gpt2", tmp_path / "gpt2")
    options = {"trunk": str(tmp_path / "gpt2"), "positions": "timesteps", "max_ep_len": 100}
    policy = assemble_run(tiny_config(tmp_path / "run", model=options), point_data()).policy
    table = policy.model.embed_timestep.weight
    positions = gpt2.transformer.wpe.weight
    assert torch.equal(table[:64], positions)
    assert torch.equal(table[64:], positions[:36])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_weights_are_the_files_random_or_shuffled_and_the_rest_is_the_same(kind, tmp_path):
    """The controls differ in the trunk alone: embeddings and heads begin with the same numbers."""
    module = saved(kind, tmp_path / kind)
    models = {}
    for weights in ("pretrained", "random", "shuffled"):
        config = tiny_config(tmp_path / weights, model={"trunk": str(tmp_path / kind), "trunk_weights": weights})
        models[weights] = assemble_run(config, point_data()).policy.model
    parts = {w: dict(m.named_parameters()) for w, m in models.items()}
    for name, parameter in parts["pretrained"].items():
        others = [parts[w][name] for w in ("random", "shuffled")]
        if not name.startswith("encoder."):
            assert all(torch.equal(parameter, other) for other in others), name
        elif parameter.dim() >= 2 and parameter.requires_grad:
            assert not any(torch.equal(parameter, other) for other in others), name
            assert torch.equal(parameter.flatten().sort().values, others[1].flatten().sort().values), name
        elif parameter.numel():
            assert torch.equal(parameter, others[1]), name
    numbers = {p.sum().item() for p in module.parameters()}
    assert {p.sum().item() for n, p in parts["pretrained"].items() if n.startswith("encoder.") and p.numel()} <= numbers


def test_shuffling_keeps_what_is_shared_shared():
    gpt2 = transformer("gpt2")
    shuffle_matrices(gpt2)
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight


def test_the_trunks_own_dropout_gets_our_rates(tmp_path):
    saved("t5", tmp_path / "t5")
    source = TrunkSource.from_name(str(tmp_path / "t5"))
    assert source.set_dropout({"resid_pdrop": 0.3, "embd_pdrop": 0.0, "attn_pdrop": 0.2}) == ["attn_pdrop"]
    assert source.config.dropout_rate == 0.3


def test_only_safetensors_are_read_and_no_code_is_run(tmp_path):
    folder = tmp_path / "pickled"
    module = saved("gpt2", folder)
    (folder / "model.safetensors").unlink()
    torch.save(module.state_dict(), folder / "pytorch_model.bin")

    def run(place):
        return train(tiny_config(tmp_path / "run", model={"trunk": str(place)}), dataset=point_data())

    with pytest.raises(RLTransformerError, match="safetensors"):
        run(folder)
    coded = tmp_path / "coded"
    coded.mkdir()
    (coded / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}))
    (coded / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RLTransformerError, match="never run"):
        run(coded)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_lacks_weights_is_refused(tmp_path):
    """transformers would fill the hole with random numbers and say so in a log."""
    for kind, missing in (("gpt2", "transformer.h.1.mlp.c_fc.weight"), ("llama", "model.layers.1.mlp.up_proj.weight")):
        saved(kind, tmp_path / kind)
        tensors = load_file(tmp_path / kind / "model.safetensors")
        del tensors[missing]
        save_file(tensors, tmp_path / kind / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(RLTransformerError, match=r"lacks .*(c_fc|up_proj)"):
            train(tiny_config(tmp_path / "run", model={"trunk": str(tmp_path / kind)}), dataset=point_data())


def test_a_hub_id_is_looked_up_in_the_cache_and_without_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--org--tiny"
    saved("gpt2", cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert TrunkSource.from_name("org/tiny").model_fields()["hidden_size"] == WIDTH
    policy = load_policy(train(tiny_config(tmp_path / "run", model={"trunk": "org/tiny"}), dataset=point_data()))
    assert policy.spec.model.hidden_size == WIDTH
    with pytest.raises(RLTransformerError, match="hf download org/absent --local-dir"):
        TrunkSource.from_name("org/absent")


@pytest.mark.parametrize("kind", ["opt", "roberta"])
def test_positions_begin_at_the_first_tokens_row(kind, tmp_path):
    """OPT and RoBERTa keep rows before it; windows longer than what is left are refused by name."""
    make = {
        "opt": lambda: transformers.OPTModel(
            transformers.OPTConfig(
                hidden_size=WIDTH,
                word_embed_proj_dim=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=32,
                vocab_size=40,
                max_position_embeddings=30,
            )
        ),
        "roberta": lambda: transformers.RobertaModel(
            transformers.RobertaConfig(**SIZES, max_position_embeddings=32, pad_token_id=1), add_pooling_layer=False
        ),
    }
    torch.manual_seed(0)
    module = make[kind]()
    module.save_pretrained(tmp_path / kind)
    model = {"trunk": str(tmp_path / kind), "positions": "timesteps"}
    policy = assemble_run(tiny_config(tmp_path / "run", model=model), point_data()).policy
    table = next(m for n, m in module.named_modules() if n.endswith(("embed_positions", "position_embeddings")))
    assert torch.equal(policy.model.embed_timestep.weight[0], table.weight[2])
    for positions in ("off", "tokens"):
        long = tiny_config(
            tmp_path / positions, model={**model, "positions": positions}, windows={"context_length": 11}
        )
        with pytest.raises(RLTransformerError, match="32 tokens are more than the 30 positions"):
            train(long, dataset=point_data())


def test_damaged_or_foreign_folders_are_refused_by_name(tmp_path):
    def run(folder):
        train(tiny_config(tmp_path / "run", model={"trunk": str(folder)}), dataset=point_data())

    for name, file, change in (
        ("cut", "model.safetensors", lambda data: data[:100]),
        ("list", "config.json", lambda data: b"[]"),
        ("quantized", "config.json", lambda data: json.dumps({**json.loads(data), "quantization_config": {}}).encode()),
        ("kernels", "config.json", lambda data: json.dumps({**json.loads(data), "hidden_size": "a"}).encode()),
    ):
        saved("llama", tmp_path / name)
        path = tmp_path / name / file
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(RLTransformerError, match=name):
            run(tmp_path / name)
    saved("llama", tmp_path / "asks")
    path = tmp_path / "asks" / "config.json"
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "_attn_implementation": "org/kernels", "attn_implementation": "org/k"}
        )
    )
    run(tmp_path / "asks")  # which is not heard


def test_a_policy_is_refused_as_a_trunk_with_what_to_do_instead(tmp_path):
    """Reported as d3rlpy#215: the answer to --model.trunk RUN was "of type 'None'"."""
    run = train(tiny_config(tmp_path / "run"), dataset=point_data())
    for folder in (run, run / "policy"):
        config = tiny_config(tmp_path / "next", model={"trunk": str(folder)})
        with pytest.raises(RLTransformerError, match="is a policy of rlt train") as error:
            train(config, dataset=point_data())
        assert "--resume and a larger --train-steps" in error.value.fix
