"""Is the advised target a good default? Compare what it achieves with what the best of several targets achieves.

    python studies/target_advice.py hopper --run RUN --json FILE    # RUN: preset fast on minari:zoo/hopper/mixed-v0
    python studies/target_advice.py shop --run FOLDER --json FILE   # trains there, or uses the finished run
    python studies/target_advice.py key-to-door --run FOLDER --json FILE

The rule of the advice is in `rl_transformer.policy.advice` (`TargetAdvice.from_data`). It and the criterion were written before the
first measurement: the default achieves at least the best swept target's mean, less 3 % of the range of the data's returns. Targets
are quantiles of the data, its maximum, and one beyond it. All targets meet the same seeds. The shop is `shop_log.py`: other
visits of the same customers, with the chance of a sale that the generator has; what is scored is the expected revenue of the
prices, and sessions see drawn revenues.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from shop_log import PRICES, visits

from rl_transformer import TrajectoryDataset, evaluate, load_policy, preset, train
from rl_transformer.evaluation.statistics import mean_interval
from rl_transformer.policy.advice import TargetAdvice
from rl_transformer.runtime.machine import versions
from rl_transformer.trajectories import open_trajectories

LEVELS = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
MARGIN = 0.03
SHOP = {
    "episode": ["user_id"],
    "order": "ts",
    "gap": "30m",
    "observe": ["f_*"],
    "categorical": ["segment"],
    "action": ["price"],
    "allowed": "mask_*",
    "reward": "revenue",
    "terminated": "churned",
}


def swept_targets(returns):
    """Return quantiles of the data's returns, the maximum, and a target beyond it."""
    beyond = returns.max() + 0.1 * np.ptp(returns)
    return sorted({*np.quantile(returns, LEVELS, method="inverted_cdf").tolist(), float(beyond)})


def with_advice(policy, data):
    """Return a policy of an earlier format with the advice that its training would give now."""
    if policy.spec.advice is None:
        advice = TargetAdvice.from_data(data, policy.spec.returns, np.arange(len(data)), policy.normalizer)
        policy.spec = replace(policy.spec, advice=advice)
    return policy


def judge(policy, returns, scores, advised):
    """Return the result: ``scores`` by target, and those of the default."""
    spread = float(np.ptp(returns))
    rows = []
    for target, values in [*scores.items(), ("advised", advised)]:
        interval = mean_interval(list(values))
        row = {"target": target, "mean": float(np.mean(values)), "episodes": len(values)}
        rows.append({**row, "interval": None if interval is None else [interval.low, interval.high]})
    best = max(rows[:-1], key=lambda row: row["mean"])
    shortfall = (best["mean"] - rows[-1]["mean"]) / spread
    advice = policy.spec.advice
    return {
        "range": spread,
        "rows": rows,
        "best_target": best["target"],
        "advised": policy.target_table().advised,
        "depends_on_start": advice.depends_on_start,
        "luck": advice.luck,
        "level": advice.level,
        "shortfall": shortfall,
        "margin": MARGIN,
        "passed": bool(shortfall <= MARGIN),
        "versions": versions(),
    }


def in_environment(policy, data, env_id, episodes):
    """Return the result in a gymnasium environment."""
    targets = swept_targets(data.episode_returns)
    swept = evaluate(policy, env_id, target_returns=targets, num_episodes=episodes)
    advised = evaluate(policy, env_id, num_episodes=episodes).targets[0].episode_returns
    scores = {t: one.episode_returns for t, one in zip(targets, swept.targets, strict=True)}
    return judge(policy, data.episode_returns, scores, advised)


def hopper(args):
    data = open_trajectories("minari:zoo/hopper/mixed-v0")
    return in_environment(with_advice(load_policy(args.run), data), data, "Hopper-v5", args.episodes or 30)


def key_to_door(args):
    env_id = "rl_transformer/KeyToDoor-v0"
    if not (args.run / "walks").exists():
        command = [sys.executable, "-m", "rl_transformer", "collect", env_id, "--num-episodes", "1000", "--output"]
        subprocess.run([*command, str(args.run / "walks")], check=True)
    data = open_trajectories(f"rlt:{args.run / 'walks'}")
    config = preset("key-to-door")
    config.output = str(args.run / "run")
    config.dataset.uri = f"rlt:{args.run / 'walks'}"
    config.training.train_steps = 1000
    return in_environment(load_policy(train(config, resume=True)), data, env_id, args.episodes or 200)


def shop(args):
    data = TrajectoryDataset.from_columns(visits(100_000, 0, np.random.default_rng(0)).drop_null(), **SHOP)
    config = preset("fast")
    config.output = str(args.run)
    config.dataset.uri = "visits of shop_log.py"
    config.training.train_steps = 800
    config.training.batch_size = 64
    config.training.warmup_steps = 50
    policy = load_policy(train(config, resume=True, dataset=data))
    pieces = cut(visits(20_000, 0, np.random.default_rng(1)).drop_null())[: args.episodes or 300]
    scores = {
        target: [visit(policy, target, piece) for piece in pieces] for target in swept_targets(data.episode_returns)
    }
    return judge(policy, data.episode_returns, scores, [visit(policy, None, piece) for piece in pieces])


def cut(table: pa.Table):
    """Return the visits of each session, in order, as rows; a pause of 30 minutes ends a session."""
    rows = table.sort_by([("user_id", "ascending"), ("ts", "ascending")]).to_pylist()
    pieces = [[rows[0]]]
    for before, row in itertools.pairwise(rows):
        is_same = row["user_id"] == before["user_id"] and (row["ts"] - before["ts"]).total_seconds() <= 1800
        if is_same and not before["churned"]:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def visit(policy, target, rows):
    """Offer prices in one session; return the expected revenue."""
    random = np.random.default_rng(int(rows[0]["ts"].timestamp()))
    session = policy.session(target)
    total = 0.0
    for row in rows:
        chosen = list(PRICES).index(session.act_row(row)["price"])
        chance = (0.6, 0.4, 0.2)[chosen] * (1 + 0.3 * (row["segment"] == "business"))
        revenue = row["f_basket"] * (1.0, 2.0, 3.0)[chosen]
        total += chance * revenue
        session.observe(float(random.random() < chance) * revenue)
    return total


TASKS = {"hopper": hopper, "shop": shop, "key-to-door": key_to_door}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--episodes", type=int, help="Episodes per target; 30 on Hopper, 300 in the shop, 200 walks.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = {"task": args.task, **TASKS[args.task](args)}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
