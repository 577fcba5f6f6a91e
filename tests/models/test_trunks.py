"""Claims about transformers of Hugging Face as trunks: causal, blind to padding, kept whole, trained as told."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.models.huggingface.source import TrunkSource, shuffle_matrices
from rl_transformer.models.huggingface.trunk import HFTrunk, build_transformer, fields_of
from rl_transformer.training.lora import apply_trunk_mode, merge_lora
from rl_transformer.training.optimizer import make_optimizer, parameter_groups, trained_parameters

from tests.toys import point_data, tiny_config

WIDTH, T = 16, 6
_SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}
_GPT2 = {
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 40,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_T5 = {"d_model": WIDTH, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 40}
_CLIP = {**_SIZES, "bos_token_id": 0, "eos_token_id": 1}
KINDS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES)),
    "qwen3": lambda: transformers.Qwen3Model(
        transformers.Qwen3Config(**_SIZES, num_key_value_heads=2, head_dim=8)
    ),
    "mamba": lambda: transformers.MambaModel(
        transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, vocab_size=40, state_size=4)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXModel(transformers.GPTNeoXConfig(**_SIZES)),
    "opt": lambda: transformers.OPTModel(
        transformers.OPTConfig(
            hidden_size=WIDTH, word_embed_proj_dim=WIDTH, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, vocab_size=40
        )
    ),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**_SIZES, is_decoder=True)),
    "bart": lambda: transformers.BartModel(
        transformers.BartConfig(
            d_model=WIDTH, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40,
        )
    ),
    "clip text tower": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**_CLIP)),
    "clip vision tower": lambda: transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**{k: v for k, v in _SIZES.items() if k != "vocab_size"}, image_size=48, patch_size=8)
    ),
    "imagegpt": lambda: transformers.ImageGPTModel(
        transformers.ImageGPTConfig(n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=40, n_positions=64)
    ),
}  # fmt: skip


def transformer(kind):
    torch.manual_seed(0)
    module = KINDS[kind]()
    for name, parameter in module.named_parameters():  # zero biases, and small weights, would hide mistakes
        if not name.endswith(("A_log", ".D", "norm.weight", "norm_f.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return module


def model_around(kind, **options):
    return DecisionTransformer(transformer=transformer(kind), state_dim=3, act_dim=2, max_ep_len=20, **options).eval()


def inputs(batch=2, length=T):
    states, actions, returns = (torch.randn(batch, length, n) for n in (3, 2, 1))
    return states, actions, returns, torch.arange(length).expand(batch, length)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("place", "first_visible"), [(0, 0), (1, 1), (2, 0)], ids=["observation", "action", "return"])
def test_a_prediction_sees_the_past_and_nothing_else(kind, place, first_visible):
    """Changing input t moves predictions from t on (t + 1 for the action) and no earlier one."""
    model, given = model_around(kind), list(inputs())
    before = model.predict_actions(*given)
    for t in range(T):
        changed = list(given)
        changed[place] = given[place].clone()
        changed[place][:, t] += 1
        moved = (model.predict_actions(*changed) - before).abs().amax((0, 2)) > 1e-6
        seen = t + first_visible
        # What a state-space model keeps of a step fades away.
        until = min(T, seen + 1) if kind == "mamba" else T
        assert moved[:until].tolist() == [step >= seen for step in range(until)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [False, True], ids=["positions off", "positions of tokens"])
def test_padding_changes_nothing_on_either_side_in_any_amount_whatever_it_holds(kind, positions):
    if positions and kind in ("t5", "llama", "qwen3", "mamba", "gpt_neox"):
        with pytest.raises(RLTransformerError, match="no table of positions"):
            model_around(kind, token_positions=True)
        return
    model = model_around(kind, **({"token_positions": True} if positions else {}))
    states, actions, returns, timesteps = inputs()
    alone = model(states, actions, returns_to_go=returns, timesteps=timesteps).action_preds
    for amount in (1, 4):
        for content in (0.0, 7.0):
            pads = [torch.full((2, amount, x.shape[2]), content) for x in (states, actions, returns)]
            time = torch.zeros(2, amount, dtype=torch.int64)
            ones, zeros = torch.ones(2, T), torch.zeros(2, amount)
            for left in (True, False):
                joined = [
                    torch.cat((p, x) if left else (x, p), 1)
                    for p, x in zip(pads, (states, actions, returns), strict=True)
                ]
                mask = torch.cat((zeros, ones) if left else (ones, zeros), 1)
                times = torch.cat((time, timesteps) if left else (timesteps, time), 1)
                found = model(
                    joined[0], joined[1], returns_to_go=joined[2], timesteps=times, attention_mask=mask
                ).action_preds
                found = found[:, amount:] if left else found[:, :T]
                assert (found - alone).abs().max() <= 1e-6


def test_windows_may_be_longer_than_a_table_that_adds_nothing():
    model = model_around("gpt2")
    given = inputs(length=30)  # 90 tokens, 64 positions
    given = (*given[:3], given[3].clamp(max=19))
    states = given[0].clone()
    states[:, 0] += 1
    moved = (model.predict_actions(states, *given[1:]) - model.predict_actions(*given)).abs().amax((0, 2))
    assert (moved > 1e-6).all()
    with pytest.raises(RLTransformerError, match="89 tokens"):
        model_around("gpt2", token_positions=True).predict_actions(*given)


def test_positions_are_those_of_real_tokens_or_add_nothing():
    """Never a hidden constant: with the table off its numbers do not matter, with it on they do, place by place."""
    given = transformer("gpt2")
    tokens = torch.randn(1, 5, WIDTH)
    off, on = (HFTrunk(fields_of(given)["trunk"], given, token_positions=p).eval() for p in (False, True))
    moved = copy.deepcopy(given)
    moved.transformer.wpe.weight.data += 1
    assert torch.equal(
        off.run(tokens, None).last_hidden_state,
        HFTrunk(fields_of(moved)["trunk"], moved, token_positions=False).eval().run(tokens, None).last_hidden_state,
    )
    silent = copy.deepcopy(given)
    silent.transformer.wpe.weight.data.zero_()
    for trunk, reference in ((off, silent), (on, given)):
        wanted = reference.eval().transformer(inputs_embeds=tokens).last_hidden_state
        assert torch.equal(trunk.run(tokens, None).last_hidden_state, wanted)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama", "mamba", "gpt_neox"])
def test_a_policy_with_a_trunk_is_trained_saved_and_loaded(kind, tmp_path):
    """The policy's folder is enough: neither the module nor its folder is needed to act."""
    module = transformer(kind)
    given = {name: p.clone() for name, p in module.named_parameters()}
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data(), transformer=module)
    assert all(torch.equal(p, given[name]) for name, p in module.named_parameters())  # a copy was trained
    policy, again = load_policy(folder), load_policy(folder)
    assert policy.spec.model.trunk["model_type"] == kind
    window = [torch.randn(2, 4, n) for n in (2, 1, 1)]
    one, two = (p.model.predict_actions(*window, torch.arange(4).expand(2, 4)) for p in (policy, again))
    assert torch.equal(one, two)
    session = policy.session(target_return=3.0)
    for _ in range(7):  # longer than the context
        assert session.act([0.1, 0.2]).shape == (1,)
        session.observe(1.0)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama", "mamba", "gpt_neox"])
@pytest.mark.parametrize("trunk", ["frozen", "lora", "full"])
def test_the_trunk_is_trained_as_told(kind, trunk, tmp_path):
    torch.manual_seed(0)
    model = DecisionTransformer(transformer=transformer(kind), state_dim=3, act_dim=2, max_ep_len=20)
    apply_trunk_mode(model, trunk, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, tiny_config(tmp_path).training)
    for _ in range(2):  # the second matrix of a low-rank change starts at zero, so the first one moves later
        model.predict_actions(*inputs()).square().sum().backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(trained_parameters(model))
    of_trunk = {name for name in changed if name.startswith("encoder.")}
    if trunk == "full":
        assert of_trunk == {n for n, p in model.named_parameters() if n.startswith("encoder.") and p.requires_grad}
    else:
        assert bool(of_trunk) == (trunk == "lora")
        assert all("lora_" in name for name in of_trunk)
    if trunk == "lora":
        given = inputs()
        model.eval()
        wanted = model.predict_actions(*given)
        merge_lora(model)
        assert not [name for name in model.state_dict() if "lora" in name]
        assert torch.allclose(model.predict_actions(*given), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"trunk": "lora", "ema_decay": 0.9}], ids=["full", "low-rank, averaged"])
def test_runs_are_functions_of_the_seed_also_with_a_trunks_own_dropout(kind, options, tmp_path):
    """A stopped run continues exactly, though the dropout inside is not ours."""

    def run(name, steps, resume=False):
        config = tiny_config(tmp_path / name, training={"train_steps": steps, **options})
        torch.manual_seed(steps)  # what the generator holds must not matter
        return train(config, dataset=point_data(), transformer=transformer(kind), resume=resume)

    whole, half = run("whole", 12), run("half", 6)
    assert transformer(kind).config.to_dict().get("dropout_rate", 0.1) == 0.1
    run("half", 12, resume=True)
    assert (whole / "metrics.jsonl").read_bytes() == (half / "metrics.jsonl").read_bytes()


def test_a_trunks_own_dropout_is_a_function_of_seed_and_step():
    """Other masks at every step and every call, the same ones again for the same (seed, step)."""
    trunk = model_around("t5").encoder.train()
    tokens = torch.randn(2, 5, WIDTH)

    def drawn(seed, step):
        with dropout_masks(seed, step, torch.device("cpu")):
            return [trunk.hidden_at(tokens, slice(None)) for _ in range(2)]

    (one, two), again, later, other = drawn(0, 1), drawn(0, 1), drawn(0, 2), drawn(1, 1)
    assert torch.equal(one, again[0])
    assert torch.equal(two, again[1])
    assert not any(torch.equal(one, x) for x in (two, later[0], other[0]))
    state = torch.get_rng_state()
    drawn(0, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_bidirectional_transformers_are_refused_by_name():
    torch.manual_seed(0)
    sizes = {k: v for k, v in _SIZES.items() if k != "vocab_size"}
    bert = transformers.BertModel(transformers.BertConfig(**_SIZES))
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8))
    for module, name in ((bert, "BertModel"), (vit, "ViTModel"), (torch.nn.Linear(3, 3), "Linear")):
        with pytest.raises(RLTransformerError, match=name):
            DecisionTransformer(transformer=module, state_dim=3, act_dim=2)


# Trunks by name


def saved(kind, folder, **options):
    module = transformer(kind)
    module.save_pretrained(folder, **options)
    return module


def test_a_saved_gpt2_gives_its_own_hidden_states_in_our_blocks(tmp_path):
    """Our blocks take GPT-2's weights: the same numbers, without transformers where the policy acts."""
    gpt2 = saved("gpt2", tmp_path / "gpt2")
    for positions in ("off", "tokens"):
        config = tiny_config(
            tmp_path / positions, model={"trunk": str(tmp_path / "gpt2"), "positions": positions},
            training={"trunk": "frozen"},
        )  # fmt: skip
        policy = load_policy(train(config, dataset=point_data()))
        assert (policy.spec.model.trunk, policy.spec.model.hidden_size, policy.spec.model.n_head) == (None, WIDTH, 2)
        tokens = torch.randn(2, 9, WIDTH)
        reference = copy.deepcopy(gpt2).eval()
        if positions == "off":
            reference.transformer.wpe.weight.data.zero_()
        wanted = reference.transformer(inputs_embeds=tokens).last_hidden_state
        assert (policy.model.encoder.run(tokens, None).last_hidden_state - wanted).abs().max() <= 1e-5
        assert (policy.model.encoder.hidden_at(tokens, slice(None)) - wanted).abs().max() <= 1e-5
        shifted = torch.cat([torch.ones(2, 3, WIDTH), tokens], dim=1)  # left padding
        valid = torch.arange(12) >= 3
        padded = policy.model.encoder.run(shifted, valid.expand(2, 12)).last_hidden_state[:, 3:]
        assert (padded - wanted).abs().max() <= 1e-5


def test_the_timestep_table_may_start_from_the_trunks_positions_repeated(tmp_path):
    gpt2 = saved("gpt2", tmp_path / "gpt2")
    options = {"trunk": str(tmp_path / "gpt2"), "positions": "timesteps", "max_ep_len": 100}
    from rl_transformer.runtime.machine import find_device
    from rl_transformer.run import assemble
    from rl_transformer.training.distributed import ProcessGroup

    policy, _, _ = assemble(tiny_config(tmp_path / "run", model=options), point_data(), find_device("cpu"), ProcessGroup())
    table, positions = policy.model.embed_timestep.weight, gpt2.transformer.wpe.weight
    assert torch.equal(table[:64], positions)
    assert torch.equal(table[64:], positions[:36])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_weights_are_the_files_random_or_shuffled_and_the_rest_is_the_same(kind, tmp_path):
    """The controls differ in the trunk alone: embeddings and heads begin with the same numbers."""
    module = saved(kind, tmp_path / kind)
    from rl_transformer.runtime.machine import find_device
    from rl_transformer.run import assemble
    from rl_transformer.training.distributed import ProcessGroup

    models = {}
    for weights in ("pretrained", "random", "shuffled"):
        config = tiny_config(tmp_path / weights, model={"trunk": str(tmp_path / kind), "trunk_weights": weights})
        models[weights] = assemble(config, point_data(), find_device("cpu"), ProcessGroup())[0].model
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


def test_a_trunk_learns_at_its_own_rate(tmp_path):
    """The option moves the trunk's weights by its own amount: the test that peers lack (an empty group there)."""
    saved("gpt2", tmp_path / "gpt2")
    before = transformer("gpt2").transformer.state_dict()

    def moved(**training):
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        config = tiny_config(folder, model={"trunk": str(tmp_path / "gpt2")}, training={"train_steps": 1, **training})
        model = load_policy(train(config, dataset=point_data())).model
        trunk = {
            n: (p - before[n]).abs().mean().item() for n, p in model.encoder.named_parameters() if n.startswith("h.")
        }
        return sum(trunk.values()), model.embed_ln.weight.detach()

    (same, rest), (slow, rest_slow), (none, _) = (
        moved(),
        moved(trunk_learning_rate=1e-5),
        moved(trunk_learning_rate=1e-12),
    )
    assert slow == pytest.approx(same / 100, rel=0.05)  # the first step of AdamW is the step size; 1e-3 elsewhere
    assert none < slow / 100
    assert torch.equal(rest, rest_slow)
    with pytest.raises(RLTransformerError, match="frozen"):
        moved(trunk="frozen", trunk_learning_rate=1e-5)


def test_groups_by_part_hold_every_parameter_once_and_are_told(tmp_path, capsys):
    saved("llama", tmp_path / "llama")
    config = tiny_config(
        tmp_path / "run", model={"trunk": str(tmp_path / "llama")},
        training={"trunk_learning_rate": 1e-5, "trunk_weight_decay": 0.5, "decay": "matrices", "weight_decay": 0.1},
    )  # fmt: skip
    train(config, dataset=point_data())
    told = capsys.readouterr().out
    assert "trunk decay: 14 tensors" in told
    assert "step size 1e-05, decay 0.5" in told
    assert "rest decay" in told
    model = model_around("llama")
    groups = parameter_groups(model, config.training)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(trained_parameters(model))
    assert {g["role"]: g["weight_decay"] for g in groups} == {
        "trunk decay": 0.5, "trunk no_decay": 0.0, "rest decay": 0.1, "rest no_decay": 0.0,
    }  # fmt: skip


# What a source may be


def test_only_safetensors_are_read_and_no_code_is_run(tmp_path):
    folder = tmp_path / "pickled"
    module = saved("gpt2", folder)
    (folder / "model.safetensors").unlink()
    torch.save(module.state_dict(), folder / "pytorch_model.bin")
    run = lambda place: train(tiny_config(tmp_path / "run", model={"trunk": str(place)}), dataset=point_data())  # noqa: E731
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
    from safetensors.torch import save_file

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


def test_a_policys_file_cannot_choose_kernels_or_code():
    config = fields_of(transformer("llama"))["trunk"]
    hostile = {
        **config,
        "auto_map": {"AutoModel": "mine.Model"},
        "_attn_implementation": "org/kernels",
        "attn_implementation": "org/kernels",
    }
    built = build_transformer(hostile)
    assert not hasattr(built.config, "auto_map")
    assert built.config._attn_implementation == "sdpa"


def test_parity_options_of_reids_code():
    """LayerNorm first, then time; and actions read out by their own embedding."""
    from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel

    sizes = {"state_dim": 3, "act_dim": 2, "hidden_size": WIDTH, "n_layer": 1, "max_ep_len": 20}
    torch.manual_seed(0)
    after = DecisionTransformerModel(DecisionTransformerConfig(**sizes, time="after_norm", tie_action_head=True)).eval()
    states, actions, returns, timesteps = inputs()
    tokens, embedded = after.embed(states, actions, returns, timesteps)
    parts = [
        after.embed_ln(after.embed_return(returns)),
        after.embed_ln(after.embed_state(states)),
        after.embed_ln(after.embed_action(actions)),
    ]
    time = after.embed_timestep(timesteps)
    assert torch.allclose(embedded, torch.stack(parts, 2).flatten(1, 2), atol=1e-6)
    assert torch.allclose(tokens, torch.stack([p + time for p in parts], 2).flatten(1, 2), atol=1e-6)
    hidden = after.encoder.run(tokens, None).last_hidden_state[:, 1::3]
    wanted = torch.tanh(hidden @ after.embed_action.weight)
    assert torch.allclose(after.predict_actions(states, actions, returns, timesteps), wanted, atol=1e-6)
    assert "predict_action.0.weight" not in after.state_dict()


def test_experts_that_a_few_tokens_do_not_meet_are_kept():
    sizes = {
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 40,
        "num_experts": 32,
        "num_sparse_decoder_layers": 1,
    }
    torch.manual_seed(0)
    switch = transformers.SwitchTransformersModel(transformers.SwitchTransformersConfig(**sizes, num_decoder_layers=2))
    model = DecisionTransformer(transformer=switch, state_dim=3, act_dim=2, max_ep_len=20)
    assert all(p.numel() for name, p in model.named_parameters() if "expert" in name)
    model.predict_actions(*inputs(batch=8)).square().sum().backward()


def test_half_precision_and_infinite_numbers_of_a_configuration_survive(tmp_path):
    half = transformer("llama").bfloat16()
    policy = load_policy(train(tiny_config(tmp_path / "half"), dataset=point_data(), transformer=half))
    assert policy.spec.model.trunk["model_type"] == "llama"
    assert not [name for name in policy.spec.model.trunk if name.startswith("_")]  # such as the path it came from
    torch.manual_seed(0)
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "vocab_size": 40,
        "state_size": 8,
        "num_heads": 4,
        "head_dim": 8,
        "n_groups": 1,
    }
    mamba = transformers.Mamba2Model(transformers.Mamba2Config(**sizes, chunk_size=8))
    assert mamba.config.time_step_limit[1] == float("inf")
    again = load_policy(train(tiny_config(tmp_path / "mamba2"), dataset=point_data(), transformer=mamba))
    assert tuple(again.model.encoder.stack.config.time_step_limit) == (0.0, float("inf"))


@pytest.mark.parametrize("kind", ["opt", "roberta"])
def test_positions_begin_at_the_first_tokens_row(kind, tmp_path):
    """OPT and RoBERTa keep rows before it; windows longer than what is left are refused by name."""
    from rl_transformer.runtime.machine import find_device
    from rl_transformer.run import assemble
    from rl_transformer.training.distributed import ProcessGroup

    make = {
        "opt": lambda: transformers.OPTModel(
            transformers.OPTConfig(
                hidden_size=WIDTH, word_embed_proj_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
                vocab_size=40, max_position_embeddings=30,
            )
        ),
        "roberta": lambda: transformers.RobertaModel(
            transformers.RobertaConfig(**_SIZES, max_position_embeddings=32, pad_token_id=1), add_pooling_layer=False
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    module = make[kind]()
    module.save_pretrained(tmp_path / kind)
    model = {"trunk": str(tmp_path / kind), "positions": "timesteps"}
    policy, _, _ = assemble(tiny_config(tmp_path / "run", model=model), point_data(), find_device("cpu"), ProcessGroup())
    table = next(m for n, m in module.named_modules() if n.endswith(("embed_positions", "position_embeddings")))
    assert torch.equal(policy.model.embed_timestep.weight[0], table.weight[2])
    for positions in ("off", "tokens"):
        long = tiny_config(
            tmp_path / positions, model={**model, "positions": positions}, windows={"context_length": 11}
        )
        with pytest.raises(RLTransformerError, match="32 tokens are more than the 30 positions"):
            train(long, dataset=point_data())


@pytest.mark.parametrize("wrong", [{"hidden_size": "a"}, {"num_attention_heads": 0}, {"vocab_size": -1}, {"hidden_act": "nope"}, {"model_type": "timm_backbone"}])  # fmt: skip
def test_a_garbled_trunk_in_a_policy_is_refused(wrong):
    with pytest.raises(RLTransformerError):
        build_transformer({**fields_of(transformer("llama"))["trunk"], **wrong})
    from rl_transformer import DecisionTransformerConfig

    with pytest.raises(RLTransformerError, match="mapping"):
        DecisionTransformerConfig(trunk="llama")


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


def test_low_rank_changes_decay_as_matrices_do(tmp_path):
    saved("gpt2", tmp_path / "gpt2")
    training = {"trunk": "lora", "decay": "matrices", "trunk_learning_rate": 1e-4, "weight_decay": 0.1}
    train(
        tiny_config(tmp_path / "run", model={"trunk": str(tmp_path / "gpt2")}, training=training), dataset=point_data()
    )


def test_a_module_is_not_ignored_and_another_one_is_noticed(tmp_path):
    with pytest.raises(RLTransformerError, match="no trunk"):
        train(
            tiny_config(tmp_path / "mlp", model={"arch": "behavior_cloning"}),
            dataset=point_data(),
            transformer=transformer("gpt2"),
        )
    train(
        tiny_config(tmp_path / "run", training={"train_steps": 4}),
        dataset=point_data(),
        transformer=transformer("gpt2"),
    )
    longer = tiny_config(tmp_path / "run", training={"train_steps": 8})
    with pytest.raises(RLTransformerError, match="another model"):
        train(longer, dataset=point_data(), transformer=transformer("llama"), resume=True)
