"""Time one training step: ours against d3rlpy's DecisionTransformer, which needs an environment of its own.

    python -m venv d3 && d3/bin/pip install d3rlpy==2.8.1          # it pins an older gymnasium
    python studies/d3rlpy_step.py --python d3/bin/python [--json FILE]

Both train the paper's Hopper model on random data of Hopper's shapes, batch and optimizer included, in processes that
take turns. d3rlpy is set up as in its own reproduction of the paper (float32; it has no autocast).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

UPDATES = 20
WARM_UP = 3
PRECISIONS = ("float32", "bfloat16")


def d3rlpy_data(num_steps=200_000, length=500):
    """Return random data of Hopper's shapes for d3rlpy."""
    import d3rlpy
    import numpy as np

    random = np.random.default_rng(0)
    ends = np.zeros(num_steps)
    ends[length - 1 :: length] = 1
    return d3rlpy.dataset.MDPDataset(
        random.standard_normal((num_steps, 11), dtype=np.float32),
        random.uniform(-1, 1, (num_steps, 3)).astype(np.float32),
        random.random(num_steps).astype(np.float32),
        terminals=np.zeros(num_steps),
        timeouts=ends,
    )


def d3rlpy_updates():
    """Return a function that makes one update of d3rlpy, its sampling included; runs where d3rlpy is installed."""
    import d3rlpy
    from d3rlpy.models import VectorEncoderFactory
    from d3rlpy.optimizers import AdamWFactory, WarmupSchedulerFactory

    data = d3rlpy_data()
    optimizer = AdamWFactory(
        weight_decay=1e-4, clip_grad_norm=0.25, lr_scheduler_factory=WarmupSchedulerFactory(10_000)
    )
    algorithm = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=64,
        learning_rate=1e-4,
        optim_factory=optimizer,
        encoder_factory=VectorEncoderFactory([128], exclude_last_activation=True),
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(0.001),
        context_size=20,
        num_heads=1,
        num_layers=3,
        max_timestep=1000,
    ).create(device="cpu")
    algorithm.observation_scaler.fit_with_trajectory_slicer(data.episodes, data.trajectory_slicer)
    algorithm.build_with_dataset(data)
    return lambda: algorithm.update(data.sample_trajectory_batch(64, length=20))


def our_updates(precision):
    """Return a function that makes one update of ours."""
    from rl_transformer.bench.train import our_updates

    return our_updates("hopper", precision)


def serve(side, threads):
    """Answer each number of updates on standard input with the seconds that they took."""
    import torch

    torch.set_num_threads(threads)
    update = d3rlpy_updates() if side == "d3rlpy" else our_updates(side)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            update()
        print("seconds", time.perf_counter() - began, flush=True)


class Side:
    """A process that makes updates on request."""

    def __init__(self, side, python, threads):
        command = [python, __file__, "--serve", side, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, updates):
        """Make this many updates and return their mean duration."""
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # d3rlpy prints its log in between
            if line.startswith("seconds "):
                return float(line.split()[1]) / updates
        raise SystemExit(f"{self.process.args} ended before it answered")


def measure(python, repeats, threads):
    """Return the seconds per update of every side, one value per round."""
    sides = {"d3rlpy": Side("d3rlpy", python, threads)}
    sides |= {precision: Side(precision, sys.executable, threads) for precision in PRECISIONS}
    seconds = {name: [] for name in sides}
    for side in sides.values():
        side.seconds(WARM_UP)
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(side.seconds(UPDATES))
    for side in sides.values():
        side.process.kill()
    return seconds


def make_rows(seconds, python):
    """Return one row of results per precision of ours."""
    from rl_transformer.bench import timing

    code = "from importlib.metadata import version; print(version('d3rlpy'), version('torch'))"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    d3rlpy_version, torch_version = result.stdout.split()
    return [
        timing.make_row(
            {"ours": timing.summarize(seconds[precision]), "baseline": timing.summarize(seconds["d3rlpy"])},
            benchmark="train",
            size="hopper",
            dtype=precision,
            against=f"d3rlpy {d3rlpy_version}, float32, torch {torch_version}",
        )
        for precision in PRECISIONS
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter that has d3rlpy")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads)
        return
    if not args.python:
        parser.error("--python is needed: the interpreter of an environment with d3rlpy")
    import torch

    from rl_transformer.runtime.files import to_json

    torch.set_num_threads(args.threads)
    rows = make_rows(measure(args.python, args.repeats, args.threads), args.python)
    for row in rows:
        print(row["dtype"], row["ours"], row["baseline"], "ratio", row["ratio"])
    if args.json:
        args.json.write_text(to_json(rows))


if __name__ == "__main__":
    main()
