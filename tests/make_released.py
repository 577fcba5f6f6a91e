"""Writes tests/released: run once for each released format, never again for an old one: python -m tests.make_released."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from rl_transformer import TrajectoryDataset, load_policy, train
from tests.toys import point_data, tiny_config

HERE = Path(__file__).parent / "released"
RELEASED_RUN = {"model": {"hidden_size": 8, "n_layer": 1}}


def data_with_costs() -> TrajectoryDataset:
    """The point's episodes with a cost: the size of the action."""
    data = point_data()
    episodes = [data.trajectory(i) for i in range(len(data))]
    episodes = [replace(e, extras={"cost": np.abs(e.actions[:, 0]).astype(np.float64)}) for e in episodes]
    return TrajectoryDataset.in_memory(data.spec, episodes)


def write_policy_format_5() -> None:
    """A policy with two conditions, the next three rewards as return, a return model and advice; actions of one episode."""
    options = {"returns": {"predict": True, "kind": "next:3"}, **RELEASED_RUN, "policy": {"support_size": 40}}
    options["model"] = {**RELEASED_RUN["model"], "conditions": ["return_to_go", "cost_to_go"]}
    with tempfile.TemporaryDirectory() as folder:
        policy = load_policy(train(tiny_config(Path(folder) / "run", **options), dataset=data_with_costs()))
    policy.save(HERE / "policy-format-5")
    observations = np.random.default_rng(0).normal(size=(8, 2)).round(3)
    session = policy.session(6.0, targets={"cost_to_go": 4.0})
    actions = []
    for observation in observations:
        actions.append(session.act(observation.astype(np.float32)).tolist())
        session.observe(0.5, cost=0.25)
    values = {"observations": observations.tolist(), "actions": actions}
    (HERE / "policy-format-5-actions.json").write_text(json.dumps(values) + "\n")


def write_run_format_2() -> None:
    """A finished run of four updates, for resuming."""
    train(tiny_config(HERE / "run-format-2", **RELEASED_RUN, training={"train_steps": 4}), dataset=point_data())
    config = HERE / "run-format-2/config.json"
    stored = json.loads(config.read_text()) | {"output": "run-format-2"}
    config.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_policy_format_5()
