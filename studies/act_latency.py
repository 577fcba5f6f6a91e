"""Measure what one action at batch 1 costs: an exported policy, the library's session, and transformers' forward pass.

    OMP_NUM_THREADS=1 python studies/act_latency.py

All have the sizes of the published Gym policy (K = 20, width 128, 3 layers) and one thread; windows are full. The contenders
take turns, action by action, and CPU time is measured, which other processes on the machine change little.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

import rl_transformer
from rl_transformer.export.reference.session import Policy as ExportedPolicy
from rl_transformer.export.write import STEP, ExportOptions, export_policy
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions

RESULT = Path(__file__).parent / "results" / "act-export-2cpu-2026-11-26.json"
WARM_UP, ACTIONS = 40, 1000
OBSERVATION = np.linspace(-1, 1, 11).astype(np.float32)


def make(folder, attention):
    """Return a policy of the published size after one update."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(31, 11)).astype(np.float32),
            "actions": random.uniform(-1, 1, (30, 3)).astype(np.float32),
            "rewards": random.normal(size=30),
            "truncated": True,
        }
        for _ in range(10)
    ]
    config = rl_transformer.preset("gym")
    config.output = str(folder)
    config.model.attention = attention
    config.training.train_steps = 1
    config.training.threads = 1
    rl_transformer.train(config, dataset=rl_transformer.TrajectoryDataset.from_episodes(episodes))
    return rl_transformer.load_policy(folder)


def acting(session):
    """Return a function that acts once and observes."""

    def act():
        session.act(OBSERVATION)
        session.observe(0.01)

    return act


def transformers_forward():
    """Return a function that runs transformers' model on a full window, as its examples do."""
    model = DecisionTransformerModel(DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000)).eval()
    states, actions, returns = torch.randn(1, 20, 11), torch.randn(1, 20, 3), torch.randn(1, 20, 1)
    inputs = {
        "states": states,
        "actions": actions,
        "rewards": returns,
        "returns_to_go": returns,
        "timesteps": torch.arange(20)[None],
        "attention_mask": torch.ones(1, 20),
    }

    def act():
        with torch.no_grad():
            model(**inputs)

    return act


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full, sliding = make(folder / "full", "full"), make(folder / "sliding", "sliding_window")
        export_policy(full, folder / "export", ExportOptions())
        export_policy(sliding, folder / "export-sliding", ExportOptions(cached=True))
        contenders = {
            "transformers' forward": transformers_forward(),
            "session, full windows": acting(full.session(1.0)),
            "session, sliding window": acting(sliding.session(1.0)),
            "ONNX, full windows": acting(ExportedPolicy(folder / "export").session(1.0)),
            "ONNX, cached step": acting(ExportedPolicy(folder / "export-sliding", STEP).session(1.0)),
        }
        times = {name: [] for name in contenders}
        for turn in range(WARM_UP + ACTIONS):
            for name, act in contenders.items():
                begin = time.process_time_ns()
                act()
                if turn >= WARM_UP:
                    times[name].append((time.process_time_ns() - begin) / 1e6)
    baseline = float(np.median(times["transformers' forward"]))
    rows = [
        {
            "what": name,
            "median_ms": float(np.median(values)),
            "p99_ms": float(np.quantile(values, 0.99)),
            "of_transformers": float(np.median(values)) / baseline,
        }
        for name, values in times.items()
    ]
    result = {
        "rows": rows,
        "actions": ACTIONS,
        "threads": 1,
        "clock": "CPU time",
        "versions": versions("onnxruntime", "transformers"),
    }
    write_text(RESULT, to_json(result))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
