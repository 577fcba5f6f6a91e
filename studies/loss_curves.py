"""Do both sides learn alike? The mean loss of updates 1,501 ... 2,000, over seeds.

    python studies/loss_curves.py published --seeds 0 1 2
    python studies/loss_curves.py ours --seeds 0 1 2 [--precision bfloat16]
    python studies/loss_curves.py summary

The published recipe on both sides (`gym`): same data, same sizes, same learning rates, dropout 0.1, and the same
initial weights per seed, those of the published code (transformers itself begins with smaller ones, and its loss
falls sooner). Windows and dropout masks differ, so the curves agree within the spread over seeds.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from rl_transformer import open_trajectories, preset
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, load_published_model
from rl_transformer.bench.workloads import make_run
from rl_transformer.runtime.files import to_json
from rl_transformer.training.updates import EagerUpdates

UPDATES = 2_000
LAST = 500


def our_losses(config, dataset):
    """Return the loss of every update of ours."""
    trainer = make_run(config, dataset).trainer
    trainer.model.train()
    updates = EagerUpdates(trainer)
    return [updates.run(step, 1)[0][0].loss for step in range(1, UPDATES + 1)]


def published_losses(config, dataset):
    """Return the loss of every update of the published loop, from the same initial weights."""
    seed = config.training.seed
    with tempfile.TemporaryDirectory() as folder:
        make_run(config, dataset).policy.model.save_pretrained(folder)
        model = load_published_model(folder)
    torch.manual_seed(seed)
    sampler = PublishedSampler(dataset, context_length=20, scale=1000.0, max_ep_len=1000, seed=seed)
    trainer = PublishedTrainer(model, sampler, batch_size=64, precision="float32")
    return [float(trainer.update()) for _ in range(UPDATES)]


def summary(folder):
    """Compare the runs that are there."""
    sides = {}
    for path in sorted(folder.glob("*-seed-*.json")):
        sides.setdefault(path.stem.rpartition("-seed-")[0], []).append(json.loads(path.read_text())["last_500"])
    result = {
        side: {"values": values, "mean": round(float(np.mean(values)), 5), "spread": round(float(np.std(values)), 5)}
        for side, values in sides.items()
    }
    print(json.dumps(result, indent=2))
    (folder / "summary.json").write_text(to_json(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["published", "ours", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--data", default="minari:zoo/hopper/medium-expert-v0")
    parser.add_argument("--output", type=Path, default=Path("studies/results/loss-curves"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.side == "summary":
        summary(args.output)
        return
    torch.set_num_threads(1)
    dataset = open_trajectories(args.data)
    is_ours = args.side == "ours"
    name = f"ours-{args.precision}" if is_ours else "published"
    for seed in args.seeds:
        config = preset("gym")
        config.training.seed = seed
        config.dataset.uri = args.data
        if is_ours:
            config.training.precision = args.precision
        losses = our_losses(config, dataset) if is_ours else published_losses(config, dataset)
        means = [round(float(np.mean(losses[i : i + 100])), 6) for i in range(0, UPDATES, 100)]
        last = round(float(np.mean(losses[-LAST:])), 6)
        result = {"data": args.data, "means_of_100": means, "last_500": last}
        (args.output / f"{name}-seed-{seed}.json").write_text(to_json(result))
        print(name, seed, last, flush=True)


if __name__ == "__main__":
    main()
