"""Claims about training with a trunk of Hugging Face: the part that is chosen is trained, kept and loaded again."""

import pytest
import torch
import transformers

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.training.lora import apply_trunk_mode, merge_lora
from rl_transformer.training.optimizer import make_optimizer, parameter_groups, trained_parameters
from tests.models.tiny_transformers import WIDTH, inputs, model_around, saved, transformer
from tests.toys import point_data, tiny_config


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama", "mamba", "gpt_neox"])
def test_a_policy_with_a_trunk_is_trained_saved_and_loaded(kind, tmp_path):
    """The policy's folder is enough: neither the module nor its folder is needed to act."""
    module = transformer(kind)
    given = {name: p.clone() for name, p in module.named_parameters()}
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data(), transformer=module)
    assert all(torch.equal(p, given[name]) for name, p in module.named_parameters())  # a copy was trained
    policy = load_policy(folder)
    again = load_policy(folder)
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
def test_the_part_of_the_trunk_that_was_chosen_is_trained(kind, trunk, tmp_path):
    torch.manual_seed(0)
    model = DecisionTransformer(transformer=transformer(kind), state_dim=3, act_dim=2, max_ep_len=20)
    apply_trunk_mode(model, trunk, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, tiny_config(tmp_path).training)
    for _ in range(2):  # the second matrix of a low-rank update starts at zero, so the first one moves later
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
        expected = model.predict_actions(*given)
        merge_lora(model)
        assert not [name for name in model.state_dict() if "lora" in name]
        assert torch.allclose(model.predict_actions(*given), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"trunk": "lora", "ema_decay": 0.9}], ids=["full", "LoRA with EMA"])
def test_runs_are_functions_of_the_seed_also_with_a_trunks_own_dropout(kind, options, tmp_path):
    """A stopped run continues exactly, though the dropout inside is not ours."""

    def run(name, steps, resume=False):
        config = tiny_config(tmp_path / name, training={"train_steps": steps, **options})
        torch.manual_seed(steps)  # what the generator holds must not matter
        return train(config, dataset=point_data(), transformer=transformer(kind), resume=resume)

    whole = run("whole", 12)
    half = run("half", 6)
    assert transformer(kind).config.to_dict().get("dropout_rate", 0.1) == 0.1
    run("half", 12, resume=True)
    assert (whole / "metrics.jsonl").read_bytes() == (half / "metrics.jsonl").read_bytes()


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

    same, rest = moved()
    slow, rest_slow = moved(trunk_learning_rate=1e-5)
    none, _ = moved(trunk_learning_rate=1e-12)
    assert slow == pytest.approx(same / 100, rel=0.05)  # AdamW's first step is its learning rate, 1e-3 elsewhere
    assert none < slow / 100
    assert torch.equal(rest, rest_slow)
    with pytest.raises(RLTransformerError, match="frozen"):
        moved(trunk="frozen", trunk_learning_rate=1e-5)


def test_groups_by_part_hold_every_parameter_once_and_are_printed(tmp_path, capsys):
    saved("llama", tmp_path / "llama")
    config = tiny_config(
        tmp_path / "run", model={"trunk": str(tmp_path / "llama")},
        training={"trunk_learning_rate": 1e-5, "trunk_weight_decay": 0.5, "decay": "matrices", "weight_decay": 0.1},
    )  # fmt: skip
    train(config, dataset=point_data())
    printed = capsys.readouterr().out
    assert "trunk decay: 14 tensors" in printed
    assert "learning rate 1e-05, weight decay 0.5" in printed
    assert "rest decay" in printed
    model = model_around("llama")
    groups = parameter_groups(model, config.training)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(trained_parameters(model))
    assert {g["role"]: g["weight_decay"] for g in groups} == {
        "trunk decay": 0.5,
        "trunk no_decay": 0.0,
        "rest decay": 0.1,
        "rest no_decay": 0.0,
    }


def test_low_rank_updates_decay_as_matrices_do(tmp_path):
    saved("gpt2", tmp_path / "gpt2")
    training = {"trunk": "lora", "decay": "matrices", "trunk_learning_rate": 1e-4, "weight_decay": 0.1}
    train(
        tiny_config(tmp_path / "run", model={"trunk": str(tmp_path / "gpt2")}, training=training), dataset=point_data()
    )


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
