"""A small text, and the configuration of a language model for it."""

from rl_transformer.language.config import TextPretrainConfig

TEXT = (
    "".join(
        f"the {a} {b} saw the {c} and the {a} slept .\n" for a in ("cat", "dog") for b in ("old", "red") for c in "xyz"
    )
    * 8
)


def text_config(folder, text, **training):
    """A language model of seconds; ``training`` are options of its training."""
    config = TextPretrainConfig(output=str(folder))
    config.dataset.uri = str(text)
    config.dataset.held_out = str(text)
    config.dataset.vocabulary = 300
    config.dataset.length = 16
    config.model.hidden_size = 16
    config.model.n_layer = 2
    config.model.dropout = 0.1
    config.training.train_steps = 12
    config.training.batch_size = 4
    config.training.warmup_steps = 2
    config.training.checkpoint_every = 4
    config.training.threads = 1
    for name, value in training.items():
        setattr(config.training, name, value)
    return config
