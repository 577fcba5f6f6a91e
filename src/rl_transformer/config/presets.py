"""Provide named recipes. No value depends on the name of a dataset or an environment."""

from __future__ import annotations

from rl_transformer.config.run import PRESETS, RunConfig
from rl_transformer.config.run import preset as preset


def gym() -> RunConfig:
    """Return the published recipe for Gym (Chen et al. 2021, appendix; kzl `experiment.py`).

    3 layers, 1 head, width 128, ReLU, K = 20, batch size 64, dropout 0.1, AdamW with learning rate 1e-4 and weight
    decay 1e-4 on all parameters, linear warm-up over 10,000 updates, gradient norm clipped at 0.25, returns divided by
    1000.
    """
    # The defaults of the options are this recipe, except for two values that fit Gym's tasks only: their returns are in
    # the thousands, and their episodes have at most 1000 steps.
    config = RunConfig(preset="gym")
    config.returns.scale = 1000.0
    config.model.max_ep_len = 1000
    return config


def fast() -> RunConfig:
    """Return our recipe for vector observations: the same model in a fraction of the training time.

    It differs from `gym` by a context of 5 with the return added to the observation's token (10 tokens per window
    instead of 60), batch size 256, no dropout, a timestep table with small initial values, learning rate 1e-3 with a
    short warm-up and cosine decay to zero, an EMA of the weights, and 8,000 updates. The scale of returns and the size
    of the timestep table follow from the data.
    """
    # docs/results/hopper-medium-expert.md compares the two.
    config = gym()
    config.preset = "fast"
    config.returns.scale = None
    config.model.max_ep_len = None
    config.model.condition_entry = "added"
    config.model.resid_pdrop = 0.0
    config.model.embd_pdrop = 0.0
    config.model.attn_pdrop = 0.0
    config.model.timestep_initializer_range = 0.02
    config.windows.context_length = 5
    config.training.train_steps = 8_000
    config.training.batch_size = 256
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 500
    config.training.schedule = "cosine"
    config.training.max_gradient_norm = 1.0
    config.training.ema_decay = 0.999
    return config


def key_to_door() -> RunConfig:
    """Return our recipe for Key-to-Door (Chen et al. 2021, section 5.4), with the whole episode as context.

    The paper gives no sizes for this experiment.
    """
    config = RunConfig(preset="key-to-door")
    # The key is picked up in the first room and used in the last one, so a shorter context would not contain it.
    config.windows.context_length = 45
    config.windows.start = "first"
    # Random walks rarely succeed. Balancing by return is unbiased here, because every window is a whole episode and
    # thus contains all rewards earned so far.
    config.windows.return_balance = 1.0
    config.model.hidden_size = 64
    config.model.n_layer = 2
    config.model.n_head = 2
    config.model.attn_pdrop = 0.0
    config.model.timestep_initializer_range = 0.02
    config.training.train_steps = 1_000
    config.training.batch_size = 32
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 100
    config.training.schedule = "cosine"
    config.training.max_gradient_norm = 1.0
    return config


def image() -> RunConfig:
    """Return our recipe for images with discrete actions: a convolutional encoder and a small transformer."""
    config = RunConfig(preset="image")
    # Four frames show velocities, as in DQN (Mnih et al. 2015); the optimizer follows kzl `run_dt_atari.py` and minGPT.
    config.model.frame_stack = 4
    config.model.n_head = 4
    config.model.activation_function = "gelu"
    config.model.timestep_initializer_range = 0.02
    config.training.learning_rate = 6e-4
    config.training.warmup_steps = 500
    config.training.decay = "matrices"
    config.training.betas = (0.9, 0.95)
    config.training.weight_decay = 0.1
    config.training.max_gradient_norm = 1.0
    config.training.schedule = "cosine"
    config.training.train_steps = 20_000
    return config


def atari() -> RunConfig:
    """Return the published sizes for Atari (kzl `run_dt_atari.py`): 6 layers, 8 heads, width 128, K = 30, batch 128.

    It differs from the published code by one timestep embedding per step instead of a global and a local position (which
    ``model.timestep_embedding window`` gives), a cosine decay to zero instead of to 10 %, and rewards that are clipped both in the data and while acting.
    """
    config = image()
    config.preset = "atari"
    config.model.n_layer = 6
    config.model.n_head = 8
    config.windows.context_length = 30
    config.training.batch_size = 128
    # Five epochs over 500,000 transitions, as published. Its warm-up of 512 * 20 tokens is about three batches of 128
    # windows with 30 timesteps.
    config.training.train_steps = 5 * 500_000 // 128
    config.training.warmup_steps = 3
    config.returns.reward_clip = 1.0
    config.policy.action_selection = "sample"
    return config


PRESETS.update({"gym": gym, "fast": fast, "key-to-door": key_to_door, "image": image, "atari": atari})
