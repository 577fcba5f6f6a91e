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


OPTIONS = {1: {}, 2: {"returns": {"label": "expected"}, "policy": {"target": "generated", "prior_exponent": 2.0}}}


def main() -> None:
    newest = max(OPTIONS)
    write_policy(newest)
    if newest > 1:
        return
    data = point_data(3)
    write_store(HERE / "store-format-1", data.spec, (data.trajectory(i) for i in range(len(data))))

    train(tiny_config(HERE / "run-format-1", **RELEASED_RUN, training={"train_steps": 4}), dataset=point_data())
    stored = json.loads((HERE / "run-format-1/config.json").read_text())
    (HERE / "run-format-1/config.json").write_text(
        json.dumps(stored | {"output": "run-format-1"}, indent=2, sort_keys=True) + "\n"
    )


def write_policy(version: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(Path(folder) / "run", **RELEASED_RUN, **OPTIONS[version])
        policy = load_policy(train(config, dataset=point_data()))
    policy.save(HERE / f"policy-format-{version}")
    observations = np.random.default_rng(0).normal(size=(8, 2)).round(3)
    session, actions = policy.session(6.0 if policy.spec.takes_target else None), []
    for observation in observations:
        actions.append(session.act(observation.astype(np.float32)).tolist())
        session.observe(0.5)
    values = {"observations": observations.tolist(), "actions": actions}
    (HERE / f"policy-format-{version}-actions.json").write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
