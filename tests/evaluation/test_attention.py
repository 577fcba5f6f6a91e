"""Claims about attention maps: they are the weights that the policy computes with."""

import json

import numpy as np
import pytest
import torch
import transformers

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.cli.main import main
from rl_transformer.evaluation.attention import attention_maps
from rl_transformer.trajectories.store import write_store
from tests.models.tiny_transformers import transformer
from tests.toys import point_data, telling_data, tiny_config

VARIANTS = {
    "published": {"model": {"n_head": 2}},
    "added": {"model": {"condition_entry": "added"}},
    "sliding window": {"model": {"attention": "sliding_window"}},
    "bfloat16, dropout": {"training": {"precision": "bfloat16"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_the_weights_that_transformers_computes(variant, tmp_path):
    """Trained by the fast path or not: the maps are those of transformers' eager attention, averaged by hand."""
    data = point_data()
    policy = load_policy(train(tiny_config(tmp_path / "run", **VARIANTS[variant]), dataset=data))
    report = attention_maps(policy, data, num_windows=7, seed=3)
    length = report["context_length"]
    per_step = len(report["tokens"])
    for layer in report["layers"]:
        weights = np.array(layer["map"])
        assert weights.shape == (length * per_step, length * per_step)
        assert np.allclose(weights.sum(1), 1, atol=1e-4)
        assert not np.triu(weights, 1).any()
        place = np.arange(len(weights))
        same = sum(weights[i, j] for i in place for j in place if i % per_step == j % per_step) / len(weights)
        back = sum(weights[i, j] * (i // per_step - j // per_step) for i in place for j in place) / len(weights)
        assert layer["same_type"] == pytest.approx(same, abs=1e-4)
        assert layer["distance"] == pytest.approx(back, abs=1e-4)
    if variant in ("published", "bfloat16, dropout"):
        policy.model.save_pretrained(tmp_path / "hf")
        theirs = transformers.DecisionTransformerModel.from_pretrained(
            tmp_path / "hf", attn_implementation="eager"
        ).eval()
        from rl_transformer.evaluation.attention import _whole_windows
        from rl_transformer.policy.gatherer import make_gatherer

        batch = make_gatherer(policy.spec, policy.normalizer, data, length, torch.device("cpu")).gather(
            _whole_windows(data, length, 7, 3)
        )
        assert batch.valid_mask.all()
        found = theirs(
            states=batch.states, actions=batch.actions, rewards=None, returns_to_go=batch.conditions, timesteps=batch.timesteps,
            attention_mask=torch.ones(7, length), output_attentions=True,
        )  # fmt: skip
        for layer, weights in zip(report["layers"], found.attentions, strict=True):
            assert np.allclose(layer["map"], weights.mean((0, 1)).detach().numpy(), atol=1e-5)


def test_a_foreign_trunk_shows_its_attention_and_one_without_attention_says_so(tmp_path):
    data = point_data()
    for kind, layers in (("t5", 2), ("llama", 2)):
        policy = load_policy(train(tiny_config(tmp_path / kind), dataset=data, transformer=transformer(kind)))
        assert len(attention_maps(policy, data, num_windows=4, seed=0)["layers"]) == layers
    policy = load_policy(train(tiny_config(tmp_path / "mamba"), dataset=data, transformer=transformer("mamba")))
    with pytest.raises(RLTransformerError, match="MambaModel does not return attention weights"):
        attention_maps(policy, data, num_windows=4, seed=0)


def test_even_attention_is_the_yardstick(tmp_path):
    data = point_data()
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    for block in policy.model.encoder.h:
        block.attn.c_attn.weight.data.zero_()
        block.attn.c_attn.bias.data.zero_()
    report = attention_maps(policy, data, num_windows=2, seed=0)
    for layer in report["layers"]:
        assert layer["same_type"] == pytest.approx(report["even"]["same_type"], abs=1e-4)
        assert layer["distance"] == pytest.approx(report["even"]["distance"], abs=1e-4)


def test_the_command_writes_maps_and_a_picture_and_finds_the_runs_own_data(tmp_path, capsys):
    data = point_data()
    write_store(tmp_path / "store", data.spec, [data.trajectory(i) for i in range(data.num_trajectories)])
    config = tiny_config(tmp_path / "run")
    config.dataset.uri = f"rlt:{tmp_path / 'store'}"
    train(config)
    out = ["--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.png"), "--num-windows", "5"]
    assert main(["attention", str(tmp_path / "run"), *out]) == 0
    assert "of the attention on tokens of the same type" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["num_windows"] == 5
    assert (tmp_path / "a.png").stat().st_size > 5_000
    assert main(["attention", str(tmp_path / "run" / "policy")]) == 2
    assert "pass --data URI" in capsys.readouterr().err
    with pytest.raises(RLTransformerError, match=r"windows of 5 steps cannot be drawn|another \w+ than"):
        attention_maps(load_policy(tmp_path / "run"), telling_data((3, 3)), num_windows=2, seed=0)
    mlp = load_policy(train(tiny_config(tmp_path / "mlp", model={"arch": "behavior_cloning"}), dataset=data))
    with pytest.raises(RLTransformerError, match="no attention"):
        attention_maps(mlp, data, num_windows=2, seed=0)


def test_a_head_that_always_attends_to_the_own_token_is_found_and_others_are_not(tmp_path, capsys):
    """Head 0 of layer 1 has equal queries and keys, which makes the product with the own token the largest."""
    data = point_data()
    write_store(tmp_path / "store", data.spec, [data.trajectory(i) for i in range(data.num_trajectories)])
    config = tiny_config(tmp_path / "run", model={"n_head": 2, "n_layer": 2, "hidden_size": 32})
    config.dataset.uri = f"rlt:{tmp_path / 'store'}"
    run = train(config)
    policy = load_policy(run)
    width = policy.model.config.hidden_size
    attention = policy.model.encoder.h[1].attn.c_attn  # columns: queries, keys, values; half of each is head 0
    with torch.no_grad():
        attention.weight[:, : width // 2] = 5 * torch.eye(width)[:, : width // 2]
        attention.weight[:, width : width + width // 2] = 5 * torch.eye(width)[:, : width // 2]
    report = attention_maps(policy, data, num_windows=6, seed=0)
    found = [[head["is_markov"] for head in layer["heads"]] for layer in report["layers"]]
    assert found == [[False, False], [True, False]]
    markov = report["layers"][1]["heads"][0]
    assert markov["head"] == 0
    assert markov["own_token"] > 0.9
    assert markov["own_token_random"] > 0.9
    other = report["layers"][0]["heads"][0]
    assert abs(other["own_token"] - report["even"]["own_token"]) < 0.2
    # The map of a layer is the mean of its heads, so its diagonal is the mean of their shares.
    own = np.diagonal(report["layers"][1]["map"])[1:].mean()
    assert own == pytest.approx(np.mean([head["own_token"] for head in report["layers"][1]["heads"]]), abs=1e-4)
    policy.save(tmp_path / "markov")
    capsys.readouterr()
    assert (
        main(["attention", str(tmp_path / "markov"), "--data", f"rlt:{tmp_path / 'store'}", "--num-windows", "6"]) == 0
    )
    printed = capsys.readouterr().out
    assert "a Markov head" in printed
    assert f": {markov['own_token']:.2f}*" in printed
    assert main(["attention", str(run), "--num-windows", "6"]) == 0
    assert "Markov" not in capsys.readouterr().out
