"""Do both sides learn alike? The mean loss of updates 1,501 ... 2,000, over seeds.

    python studies/loss_curves.py published --seeds 0 1 2
    python studies/loss_curves.py ours --seeds 0 1 2 [--precision bfloat16]
    python studies/loss_curves.py summary

The published recipe on both sides (`gym`): same data, same sizes, same step sizes, dropout 0.1, and the same initial
weights a seed, those of the published code (transformers itself begins with smaller ones, and its loss falls
sooner). Windows and dropout masks differ, so the curves agree within the spread over seeds.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from rl_transformer import open_trajectories
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, load_published_model
from rl_transformer.runtime.files import to_json
from rl_transformer.config.presets import preset
from rl_transformer.run import assemble
from rl_transformer.training.distributed import ProcessGroup

UPDATES, READ = 2_000, 500


def losses_of(side, seed, dataset, args):
    config = preset("gym")
    config.training.seed, config.dataset.uri, config.output = seed, args.data, tempfile.mkdtemp()
    if side == "ours":
        config.training.precision = args.precision
        trainer = assemble(config, dataset, torch.device("cpu"), ProcessGroup())[1]
        trainer.model.train()
        return [trainer.update(step) for step in range(1, UPDATES + 1)]
    with tempfile.TemporaryDirectory() as folder:
        assemble(config, dataset, torch.device("cpu"), ProcessGroup())[0].model.save_pretrained(folder)
        model = load_published_model(folder)
    torch.manual_seed(seed)
    sampler = PublishedSampler(dataset, context_length=20, scale=1000.0, max_ep_len=1000, seed=seed)
    trainer = PublishedTrainer(model, sampler, batch_size=64, precision="float32")
    return [float(trainer.update()) for _ in range(UPDATES)]


def summary(folder):
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
        return summary(args.output)
    torch.set_num_threads(1)
    dataset = open_trajectories(args.data)
    for seed in args.seeds:
        losses = losses_of(args.side, seed, dataset, args)
        means = [round(float(np.mean(losses[i : i + 100])), 6) for i in range(0, UPDATES, 100)]
        last = round(float(np.mean(losses[-READ:])), 6)
        name = "published" if args.side == "published" else f"ours-{args.precision}"
        result = {"data": args.data, "means_of_100": means, "last_500": last}
        (args.output / f"{name}-seed-{seed}.json").write_text(to_json(result))
        print(name, seed, last, flush=True)
    return None


if __name__ == "__main__":
    main()
