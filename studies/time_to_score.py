"""Seconds of training to the published loop's score, on one data set.

    python studies/time_to_score.py published --seed 0 [--updates 20000]   # one run of the baseline, resumable
    python studies/time_to_score.py ours --seed 0 [--preset fast]          # one run of ours
    python studies/time_to_score.py summary                                # compare what is there

The baseline is transformers' model in the published loop. Its weights are scored by the same batched
evaluation as ours, which computes the same actions. The score to reach, S, is the mean over the baseline's seeds of
50 episodes after the last update; the target and the evaluation seeds are fixed below, before any run. Seconds
are of training alone, on one thread, as processor time: other work on the machine does not count.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rl_transformer import DecisionTransformerModel, evaluate, open_trajectories
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, published_model
from rl_transformer.evaluation import plots
from rl_transformer.runtime.files import to_json
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.policy import Policy
from rl_transformer.config.presets import preset
from rl_transformer.run import assemble
from rl_transformer.training.distributed import ProcessGroup

EPISODES, EVALUATION_SEED = 50, 3_000_000
CHECKPOINT_EVERY = 500


def policy_of(config, dataset):
    """An untrained policy of a configuration: units, rules and sizes."""
    return assemble(config, dataset, torch.device("cpu"), ProcessGroup())[0]


def score(policy, args):
    report = evaluate(
        policy, env_id=args.env_id, target_returns=[args.target], num_episodes=EPISODES, seed=EVALUATION_SEED
    )
    (target,) = report.targets
    return {"mean": round(target.mean, 2), "episode_returns": [round(r, 1) for r in target.episode_returns]}


def run_published(args, dataset, folder):
    """20,000 updates of the published loop, resumable; scored four times on the way."""
    config = preset("gym")
    config.dataset.uri, config.output = args.data, tempfile.mkdtemp()
    template = policy_of(config, dataset)
    torch.manual_seed(args.seed)
    model = published_model(template.spec.model)
    sampler = PublishedSampler(dataset, context_length=20, scale=1000.0, max_ep_len=1000, seed=args.seed)
    trainer = PublishedTrainer(model, sampler, batch_size=64, precision="float32")
    state = {"step": 0, "seconds": 0.0, "losses": [], "scores": []}
    saved = folder / f"published-seed-{args.seed}.state"
    if (saved / "state.json").exists():
        state = json.loads((saved / "state.json").read_text())
        restore(trainer, load_file(saved / f"{state['step']}.safetensors"), state)
    every = args.updates // 5
    while state["step"] < args.updates:
        began, losses = time.process_time(), []
        for _ in range(CHECKPOINT_EVERY):
            losses.append(trainer.update())
        state["seconds"] += time.process_time() - began
        state["step"] += CHECKPOINT_EVERY
        state["losses"].append(float(torch.stack(losses).mean()))
        state["random"] = sampler.random.bit_generator.state
        if state["step"] % every == 0:
            model.save_pretrained(saved / "model")
            ours = DecisionTransformerModel.from_pretrained(saved / "model")
            found = score(Policy(template.spec, ours, template.scaling), args)
            state["scores"].append({"step": state["step"], "seconds": round(state["seconds"], 1), **found})
            print(state["step"], found["mean"], flush=True)
            model.train()
        keep(trainer, saved, state)
        print(f"{state['step']} updates, {state['seconds']:.0f} s, loss {state['losses'][-1]:.4f}", flush=True)
    return state


def keep(trainer, saved, state):
    saved.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": t.detach() for name, t in trainer.model.state_dict().items()}
    for index, parameter in enumerate(trainer.model.parameters()):
        for name, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{index}.{name}"] = value
    # No pickle here either; the JSON names the file that goes with it.
    save_file({k: t.contiguous().clone() for k, t in tensors.items()}, saved / f"{state['step']}.safetensors")
    (saved / "state.tmp").write_text(json.dumps(state))
    (saved / "state.tmp").rename(saved / "state.json")
    for file in saved.glob("*.safetensors"):
        if file.stem != str(state["step"]):
            file.unlink()


def restore(trainer, tensors, state):
    trainer.model.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
    for index, parameter in enumerate(trainer.model.parameters()):
        names = ("step", "exp_avg", "exp_avg_sq")
        found = {n: tensors[f"optimizer.{index}.{n}"] for n in names if f"optimizer.{index}.{n}" in tensors}
        if found:
            trainer.optimizer.state[parameter] = found
    trainer.scheduler.last_epoch = state["step"]
    for group, rate in zip(trainer.optimizer.param_groups, trainer.scheduler.base_lrs, strict=True):
        group["lr"] = rate * min((state["step"] + 1) / 10_000, 1)
    trainer.sampler.random.bit_generator.state = state["random"]


def run_ours(args, dataset, folder):
    """One run of a preset; only the last policy is scored."""
    config = preset(args.preset)
    config.training.seed, config.dataset.uri, config.output = args.seed, args.data, tempfile.mkdtemp()
    if args.precision:
        config.training.precision = args.precision
    policy, trainer, _ = assemble(config, dataset, torch.device("cpu"), ProcessGroup())
    trainer.model.train()
    began, losses = time.process_time(), []
    for step in range(1, config.training.train_steps + 1):
        losses.append(trainer.update(step))
        if step % 1000 == 0:
            print(f"{step} updates, {time.process_time() - began:.0f} s, loss {losses[-1]:.4f}", flush=True)
    seconds = time.process_time() - began
    with trainer.policy_weights():
        found = score(policy, args)
    print(found["mean"], flush=True)
    curve = [float(np.mean(losses[i : i + 500])) for i in range(0, len(losses), 500)]
    step = config.training.train_steps
    return {
        "step": step,
        "seconds": seconds,
        "losses": curve,
        "scores": [{"step": step, "seconds": round(seconds, 1), **found}],
    }


def summary(folder):
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*-seed-*.json"))}
    sides = {}
    for name, run in runs.items():
        sides.setdefault(name.rpartition("-seed-")[0], []).append(run)
    result = {}
    for side, found in sides.items():
        last = [run["scores"][-1]["mean"] for run in found]
        result[side] = {
            "seeds": len(found),
            "scores": last,
            "mean_score": round(statistics.mean(last), 1),
            "seconds": round(statistics.mean(run["seconds"] for run in found), 1),
        }
    baseline = result.get("published")
    for side, found in result.items():
        if baseline and side != "published":
            found["reached"] = found["mean_score"] >= baseline["mean_score"]
            found["times_fewer_seconds"] = round(baseline["seconds"] / found["seconds"], 2)
    print(json.dumps(result, indent=2))
    (folder / "summary.json").write_text(to_json(result))
    draw(runs, folder / "figure.png")


def draw(runs, path):
    """Score against seconds of training, a line or a point a run."""
    drawn, axes = plots.figure()
    for name, run in runs.items():
        ours = not name.startswith("published")
        seconds, scores = zip(*[(score["seconds"], score["mean"]) for score in run["scores"]], strict=True)
        label = name.rpartition("-seed-")[0] if name.endswith("-seed-0") else None
        axes.plot(seconds, scores, "o-", color=plots.ACCENT if ours else plots.INK, label=label)
    axes.set_xlabel("seconds of training, one thread")
    axes.set_ylabel("mean return of 50 episodes")
    axes.legend(frameon=False)
    plots.save(drawn, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["published", "ours", "summary"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--precision", default=None, help="ours: float32 or bfloat16; the preset's if not given")
    parser.add_argument("--updates", type=int, default=20_000, help="published: updates")
    parser.add_argument("--data", default="minari:zoo/hopper/medium-expert-v0")
    parser.add_argument("--env-id", default="Hopper-v5")
    parser.add_argument("--target", type=float, default=3600.0)
    parser.add_argument("--output", type=Path, default=Path("studies/results/time-to-score"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.side == "summary":
        return summary(args.output)
    torch.set_num_threads(1)
    dataset = open_trajectories(args.data)
    run = (run_published if args.side == "published" else run_ours)(args, dataset, args.output)
    kept = {name: run[name] for name in ("step", "seconds", "losses", "scores")}
    about = {"data": args.data, "env_id": args.env_id, "target": args.target, "threads": 1}
    name = "published" if args.side == "published" else "-".join(filter(None, [args.preset, args.precision]))
    path = args.output / f"{name}-seed-{args.seed}.json"
    path.write_text(
        to_json({"side": name, **about, "versions": versions("transformers"), "hardware": describe_hardware(), **kept})
    )
    return None


if __name__ == "__main__":
    main()
