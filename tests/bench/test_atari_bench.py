"""Claims about the Atari benchmark: its baseline is the published model, and both sides play the same game."""

import pytest
import torch

from rl_transformer.bench import bench
from rl_transformer.bench.atari import random_frames
from rl_transformer.bench.published_atari import PublishedAtariModel, PublishedAtariTrainer, play
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel

WIDTH = 16
STEPS = 5


def both_models():
    """Our model with the positions of the published code, and the baseline with the same weights."""
    torch.manual_seed(0)
    config = DecisionTransformerConfig(
        state_dim=1, act_dim=6, action_head="discrete", image_shape=(4, 84, 84), hidden_size=WIDTH, n_layer=2,
        n_head=2, activation_function="gelu", max_ep_len=50, timestep_embedding="window", window_length=STEPS,
    )  # fmt: skip
    ours = DecisionTransformerModel(config).eval()
    baseline = PublishedAtariModel(config, STEPS).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
        ours.predict_action.linear.bias.zero_()  # the published head has none
        weights = ours.state_dict()
        copied = {
            "return_embedding.0.weight": weights["embed_return.weight"],
            "return_embedding.0.bias": weights["embed_return.bias"],
            "action_embedding.0.weight": weights["embed_action.weight"],
            "head.weight": weights["predict_action.linear.weight"],
            "ln_f.weight": weights["encoder.ln_f.weight"],
            "ln_f.bias": weights["encoder.ln_f.bias"],
            "state_encoder.7.weight": weights["embed_state.project.0.weight"],
            "state_encoder.7.bias": weights["embed_state.project.0.bias"],
        }
        for layer in (0, 2, 4):
            for kind in ("weight", "bias"):
                copied[f"state_encoder.{layer}.{kind}"] = weights[f"embed_state.convolutions.{layer}.{kind}"]
        for block in range(2):
            mine = f"encoder.h.{block}"
            for theirs, name in (("ln1", "ln_1"), ("ln2", "ln_2")):
                for kind in ("weight", "bias"):
                    copied[f"blocks.{block}.{theirs}.{kind}"] = weights[f"{mine}.{name}.{kind}"]
            qkv = weights[f"{mine}.attn.c_attn.weight"].t().chunk(3)
            biases = weights[f"{mine}.attn.c_attn.bias"].chunk(3)
            for part, weight, bias in zip(("query", "key", "value"), qkv, biases, strict=True):
                copied[f"blocks.{block}.{part}.weight"] = weight
                copied[f"blocks.{block}.{part}.bias"] = bias
            for theirs, name in (("project", "attn.c_proj"), ("mlp.0", "mlp.c_fc"), ("mlp.2", "mlp.c_proj")):
                copied[f"blocks.{block}.{theirs}.weight"] = weights[f"{mine}.{name}.weight"].t()
                copied[f"blocks.{block}.{theirs}.bias"] = weights[f"{mine}.{name}.bias"]
        missing, unexpected = baseline.load_state_dict(copied, strict=False)
        assert not unexpected
        assert {name for name in missing if "mask" not in name} == {"local_positions", "global_positions"}
        positions = weights["embed_position.per_token"].flatten(0, 1)
        baseline.local_positions[0, : len(positions)] = positions
        baseline.global_positions[0, :50] = weights["embed_timestep.weight"]
    return ours, baseline


def test_the_baseline_computes_what_our_model_computes():
    ours, baseline = both_models()
    states = torch.randint(0, 256, (3, STEPS, 4, 84, 84), dtype=torch.uint8)
    actions = torch.randint(0, 4, (3, STEPS))
    returns = torch.randn(3, STEPS, 1)
    first = torch.tensor([0, 7, 31])
    with torch.no_grad():
        expected = ours.predict_actions(states, actions, returns, first[:, None] + torch.arange(STEPS))
        flat = states.flatten(2).float() / 255
        found = baseline(flat, actions[..., None], returns, first[:, None, None])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        # While acting the newest action is missing, and at a game's first step there is none.
        acting = baseline(flat, actions[:, :-1, None], returns, first[:, None, None])
        torch.testing.assert_close(acting, expected, atol=1e-4, rtol=1e-4)
        one = baseline(flat[:, :1], None, returns[:, :1], first[:, None, None])
        torch.testing.assert_close(one, expected[:, :1], atol=1e-4, rtol=1e-4)


def test_the_windows_of_the_baseline_are_those_of_the_data():
    data = random_frames(episodes=2, length=9)
    _, baseline = both_models()
    trainer = PublishedAtariTrainer(baseline, data, batch_size=2, precision="float32")
    for _ in range(20):
        states, actions, returns, timesteps = trainer._window()
        first = int(timesteps)
        (episode,) = [
            e
            for e in range(2)
            if torch.equal(torch.from_numpy(data.trajectory(e).actions[first : first + STEPS]), actions[:, 0])
        ]
        frames = data.trajectory(episode).observations
        for t in range(STEPS):
            stack = torch.stack([torch.from_numpy(frames[max(0, first + t - back), 0]) for back in (3, 2, 1, 0)])
            torch.testing.assert_close(states[t].view(4, 84, 84), stack.float() / 255)
            assert float(returns[t]) == data.trajectory(episode).rewards[first + t :].sum()
    assert torch.isfinite(trainer.update())


def test_the_published_game_reads_its_last_steps(monkeypatch):
    _, baseline = both_models()
    seen = []
    genuine = PublishedAtariModel.forward
    monkeypatch.setattr(
        PublishedAtariModel, "forward", lambda self, *inputs: seen.append(inputs) or genuine(self, *inputs)
    )
    frames = iter(torch.rand(20, 1, 4, 84, 84))
    rewards = iter([1.0, 0.0, 2.0] * 7)
    score, length = play(
        baseline, lambda: next(frames), lambda _: (next(frames), next(rewards), False), target_return=9.0, max_steps=8
    )
    assert (score, length) == (7.0, 8)
    states, actions, returns, first = seen[-1]
    assert states.shape[1] == STEPS
    assert actions.shape[1] == STEPS - 1
    assert int(first) == 3
    assert returns[0, :, 0].tolist() == [6.0, 5.0, 5.0, 3.0, 2.0]


def test_the_benchmark_reports_every_comparison(monkeypatch):
    pytest.importorskip("ale_py", reason="the games are ale-py's")
    from rl_transformer.bench import atari

    def small(precision):
        config = genuine(precision)
        config.model.n_layer = 1
        config.model.n_head = 1
        config.model.hidden_size = 16
        config.windows.context_length = 3
        config.training.batch_size = 2
        return config

    genuine = atari.make_config
    monkeypatch.setattr(atari, "make_config", small)
    monkeypatch.setattr(
        atari.timing,
        "time_in_processes",
        lambda sides, **_: atari.timing.time_in_turns({name: make() for name, make in sides.items()}, repeats=1),
    )
    rows = bench("atari", repeats=1, max_steps=4)
    assert [row["what"] for row in rows] == [
        "training step", "training step", "training step", "step of one game", "step of 10 games together, per game",
        "step of 10 games together, per game, sliding-window attention (ours)",
    ]  # fmt: skip
    assert all(row["ratio"] > 0 for row in rows)
