"""Measure the seconds of training to the published loop's score, on one data set.

    python studies/time_to_score.py published --seed 0 [--updates 20000]   # one run of the baseline, resumable
    python studies/time_to_score.py published --recipe fast --updates 8000 # the baseline with the recipe of our preset `fast`
    python studies/time_to_score.py ours --seed 0 [--preset fast]          # one run of ours
    python studies/time_to_score.py summary                                # compare what is there

The baseline is transformers' model in the published loop. Its weights are scored by the same batched
evaluation as ours, which computes the same actions. The score to reach, S, is the mean over the baseline's seeds of
50 episodes after the last update of the published recipe; the target and the evaluation seeds are fixed below, before any run. Seconds
are of training alone, on one thread, as processor time: other work on the machine does not count.

With the recipe `fast`, the baseline has the preset's context, batch size, learning rate, schedule, clipping, dropout and EMA. What it
cannot have is the return added to the token of the observation: transformers' model has a token for each.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rl_transformer import DecisionTransformerModel, Policy, evaluate, open_trajectories, preset
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, published_model
from rl_transformer.bench.workloads import make_run
from rl_transformer.evaluation import plots
from rl_transformer.runtime.files import to_json
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.training.updates import EagerUpdates

EPISODES = 50
EVALUATION_SEED = 3_000_000
CHECKPOINT_EVERY = 500
RECIPES = {
    "gym": {"batch_size": 64, "warmup_steps": 10_000},
    "fast": {
        "batch_size": 256,
        "warmup_steps": 500,
        "learning_rate": 1e-3,
        "cosine_steps": 8000,
        "max_gradient_norm": 1.0,
    },
}
EMA_DECAY = 0.999
SCORES = {"gym": 5, "fast": 8}
TITLES = {
    "published": "published loop",
    "published-fast": "published loop, recipe of fast",
    "fast-bfloat16": "fast, bfloat16",
}


def score(policy, args):
    """Return the mean return of a policy's episodes, and every one of them."""
    report = evaluate(
        policy, env_id=args.env_id, target_returns=[args.target], num_episodes=EPISODES, seed=EVALUATION_SEED
    )
    (target,) = report.targets
    return {"mean": round(target.mean, 2), "episode_returns": [round(r, 1) for r in target.episode_returns]}


def run_published(args, dataset, folder):
    """Make updates of the published loop, resumable, and score them several times."""
    config = preset("gym")
    config.dataset.uri = args.data
    if args.recipe == "fast":
        config.windows.context_length = 5
        config.model.resid_pdrop = config.model.embd_pdrop = config.model.attn_pdrop = 0.0
    template = make_run(config, dataset).policy  # units, rules and sizes
    torch.manual_seed(args.seed)
    model = published_model(template.spec.model)
    context = config.windows.context_length
    sampler = PublishedSampler(dataset, context_length=context, scale=1000.0, max_ep_len=1000, seed=args.seed)
    trainer = PublishedTrainer(model, sampler, precision="float32", **RECIPES[args.recipe])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY)) if args.recipe == "fast" else None
    saved = folder / f"{name_of(args)}-seed-{args.seed}.state"
    state = {"step": 0, "seconds": 0.0, "losses": [], "scores": []}
    if (saved / "state.json").exists():
        state = json.loads((saved / "state.json").read_text())
        restore(trainer, average, load_file(saved / f"{state['step']}.safetensors"), state)
    while state["step"] < args.updates:
        losses = []
        began = time.process_time()
        for _ in range(CHECKPOINT_EVERY):
            losses.append(trainer.update())
            if average is not None:
                average.update_parameters(model)
        state["seconds"] += time.process_time() - began
        state["step"] += CHECKPOINT_EVERY
        state["losses"].append(float(torch.stack(losses).mean()))
        state["random"] = sampler.random.bit_generator.state
        if state["step"] % (args.updates // SCORES[args.recipe]) == 0:
            scored = model if average is None else average.module
            state["scores"].append(score_published(template, scored, state, args, saved / "model"))
            model.train()
        save(trainer, average, saved, state)
        print(f"{state['step']} updates, {state['seconds']:.0f} s, loss {state['losses'][-1]:.4f}", flush=True)
    return state


def score_published(template, model, state, args, folder):
    """Return the score of the baseline's weights, acting by our code, which computes the same actions."""
    model.save_pretrained(folder)
    ours = DecisionTransformerModel.from_pretrained(folder)
    result = score(Policy(template.spec, ours, template.normalizer), args)
    print(state["step"], result["mean"], flush=True)
    return {"step": state["step"], "seconds": round(state["seconds"], 1), **result}


def save(trainer, average, saved, state):
    """Write everything that the next update depends on."""
    saved.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": t.detach() for name, t in trainer.model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": t.detach() for name, t in average.state_dict().items()}
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


def restore(trainer, average, tensors, state):
    """Put back what `save` wrote."""
    trainer.model.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
    if average is not None:
        average.load_state_dict({k[8:]: t for k, t in tensors.items() if k.startswith("average.")})
    for index, parameter in enumerate(trainer.model.parameters()):
        prefix = f"optimizer.{index}."
        moments = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if moments:
            trainer.optimizer.state[parameter] = moments
    scheduler = trainer.scheduler
    scheduler.last_epoch = state["step"]
    for group, rate, share in zip(
        trainer.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = rate * share(state["step"])
    trainer.sampler.random.bit_generator.state = state["random"]


def name_of(args):
    """Return the name of a side, which its files have."""
    if args.side == "published":
        return "published" if args.recipe == "gym" else f"published-{args.recipe}"
    return "-".join(filter(None, [args.preset, args.precision]))


def run_ours(args, dataset, folder):
    """Make one run of a preset; only the last policy is scored."""
    config = preset(args.preset)
    config.training.seed = args.seed
    config.dataset.uri = args.data
    if args.precision:
        config.training.precision = args.precision
    run = make_run(config, dataset)
    run.trainer.model.train()
    updates = EagerUpdates(run.trainer)
    train_steps = config.training.train_steps
    losses = []
    began = time.process_time()
    for step in range(1, train_steps + 1):
        losses.append(updates.run(step, 1)[0][0].loss)
        if step % 1000 == 0:
            print(f"{step} updates, {time.process_time() - began:.0f} s, loss {losses[-1]:.4f}", flush=True)
    seconds = time.process_time() - began
    with run.trainer.policy_weights():
        result = score(run.policy, args)
    print(result["mean"], flush=True)
    return {
        "step": train_steps,
        "seconds": seconds,
        "losses": [float(np.mean(losses[i : i + 500])) for i in range(0, len(losses), 500)],
        "scores": [{"step": train_steps, "seconds": round(seconds, 1), **result}],
    }


def summary(folder):
    """Compare the runs that are there, and draw them."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*-seed-*.json"))}
    sides = {}
    for name, run in runs.items():
        sides.setdefault(name.rpartition("-seed-")[0], []).append(run)
    result = {}
    for side, side_runs in sides.items():
        scores = [run["scores"][-1]["mean"] for run in side_runs]
        result[side] = {
            "seeds": len(side_runs),
            "scores": scores,
            "mean_score": round(statistics.mean(scores), 1),
            "seconds": round(statistics.mean(run["seconds"] for run in side_runs), 1),
        }
    baseline = result.get("published")
    for side, values in result.items():
        if baseline and side != "published":
            values["reached"] = values["mean_score"] >= baseline["mean_score"]
            values["times_fewer_seconds"] = round(baseline["seconds"] / values["seconds"], 2)
    print(json.dumps(result, indent=2))
    (folder / "summary.json").write_text(to_json(result))
    draw(runs, folder / "figure.png")


def draw(runs, path):
    """Draw score against seconds of training, a line or a point per run."""
    drawn, axes = plots.figure()
    for name, run in runs.items():
        side = name.rpartition("-seed-")[0]
        seconds, scores = zip(*[(score["seconds"], score["mean"]) for score in run["scores"]], strict=True)
        label = TITLES.get(side, side) if name.endswith("-seed-0") else None
        color = {"published": plots.INK, "published-fast": plots.PALE}.get(side, plots.ACCENT)
        axes.plot(seconds, scores, "o-", color=color, label=label)
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
    parser.add_argument("--recipe", choices=list(RECIPES), default="gym", help="published: the recipe to train with")
    parser.add_argument("--updates", type=int, default=20_000, help="published: updates")
    parser.add_argument("--data", default="minari:zoo/hopper/medium-expert-v0")
    parser.add_argument("--env-id", default="Hopper-v5")
    parser.add_argument("--target", type=float, default=3600.0)
    parser.add_argument("--output", type=Path, default=Path("studies/results/time-to-score"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.side == "summary":
        summary(args.output)
        return
    torch.set_num_threads(1)
    dataset = open_trajectories(args.data)
    run = (run_published if args.side == "published" else run_ours)(args, dataset, args.output)
    name = name_of(args)
    result = {
        "side": name,
        "data": args.data,
        "env_id": args.env_id,
        "target": args.target,
        "threads": 1,
        "versions": versions("transformers"),
        "hardware": describe_hardware(),
        **{field: run[field] for field in ("step", "seconds", "losses", "scores")},
    }
    (args.output / f"{name}-seed-{args.seed}.json").write_text(to_json(result))


if __name__ == "__main__":
    main()
