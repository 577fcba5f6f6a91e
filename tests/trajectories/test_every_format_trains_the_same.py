"""Claim: the same episodes train the same policy, to the bit, whatever format they come from."""

import torch

from rl_transformer import open_trajectories, train
from rl_transformer.trajectories.readers import READERS
from tests.toys import tiny_config
from tests.training.runs import stored_tensors
from tests.trajectories.every_format import WRITERS, random_data


def test_every_format_of_the_same_episodes_trains_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    built_in = {name for name in READERS.names() if not READERS.is_from_plugin(name)}
    assert built_in - {"dqn-replay"} == {
        name.split()[0].removesuffix(".gz") for name in WRITERS
    }  # frames of games only
    data = random_data()
    expected = None
    for number, (name, write) in enumerate(WRITERS.items()):
        uri = write(tmp_path, data)
        assert open_trajectories(uri).fingerprint == data.fingerprint, name
        config = tiny_config(tmp_path / f"run-{number}", training={"train_steps": 5}, dataset={"uri": uri})
        tensors = stored_tensors(train(config))
        expected = expected or tensors
        assert tensors.keys() == expected.keys(), name
        for key, tensor in expected.items():
            assert torch.equal(tensors[key], tensor), (name, key)
