"""Writes tests/released: run once for each released format, never again for an old one."""

import json
import tempfile
from pathlib import Path

import numpy as np

from rl_transformer import load_policy, train
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data, tiny_config

HERE = Path(__file__).parent / "released"


RELEASED_RUN = {"model": {"hidden_size": 8, "n_layer": 1}}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(Path(folder) / "run", **RELEASED_RUN)
        policy = load_policy(train(config, dataset=point_data()))
    policy.save(HERE / "policy-format-1")
    observations = np.random.default_rng(0).normal(size=(8, 2)).round(3)
    session, actions = policy.session(6.0), []
    for observation in observations:
        actions.append(session.act(observation.astype(np.float32)).tolist())
        session.observe(0.5)
    values = {"observations": observations.tolist(), "actions": actions}
    (HERE / "policy-format-1-actions.json").write_text(json.dumps(values) + "\n")
    data = point_data(3)
    write_store(HERE / "store-format-1", data.spec, (data.trajectory(i) for i in range(len(data))))

    train(tiny_config(HERE / "run-format-1", **RELEASED_RUN, training={"train_steps": 4}), dataset=point_data())
    stored = json.loads((HERE / "run-format-1/config.json").read_text())
    (HERE / "run-format-1/config.json").write_text(
        json.dumps(stored | {"output": "run-format-1"}, indent=2, sort_keys=True) + "\n"
    )


if __name__ == "__main__":
    main()
