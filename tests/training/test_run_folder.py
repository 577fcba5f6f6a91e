"""Claims about run folders: a run goes on only with the options that it was started with."""

import pytest

from rl_transformer import RLTransformerError, train
from tests.toys import point_data, tiny_config

CHANGED = {
    "training.batch_size": 4,
    "training.seed": 3,
    "training.learning_rate": 2e-3,
    "training.weight_decay": 0.5,
    "training.max_gradient_norm": 9.0,
    "training.ema_decay": 0.9,
    "training.train_steps": 4,
    "windows.context_length": 4,
    "model.n_layer": 1,
    "dataset.validation_fraction": 0.5,
    "returns.reward_clip": 0.5,
}


def test_no_option_that_changes_what_is_learned_may_change_when_a_run_is_resumed(tmp_path):
    folder = train(tiny_config(tmp_path / "run", training={"train_steps": 6}), dataset=point_data())
    (folder / "finished.json").unlink()
    for option, value in CHANGED.items():
        config = tiny_config(folder, training={"train_steps": 6})
        config.set(option, value)
        with pytest.raises(RLTransformerError, match=f"{option} is {value!r}, and the run was started with"):
            train(config, resume=True, dataset=point_data())
