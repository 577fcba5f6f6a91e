"""A Decision Transformer against %BC, the strongest simple baseline, over two seeds. The task is Key-to-Door."""

from pathlib import Path

import numpy as np

import rl_transformer as rlt
from rl_transformer.cli.main import main as run_rlt
from rl_transformer.launch.seeds import train_seeds

KEY_TO_DOOR = "rl_transformer/KeyToDoor-v0"
SEEDS = [0, 1]


def policies(folder, data, train_steps, options):
    """Train one policy per seed with the preset key-to-door and further options."""
    config = rlt.preset("key-to-door")
    config.dataset.uri = "random walks"
    config.output = str(folder)
    config.training.train_steps = train_steps
    for name, value in options.items():
        config.set(name, value)
    return [rlt.load_policy(run) for run in train_seeds(config, SEEDS, dataset=data, resume=True)]


def success(policy, targets, num_episodes):
    """Return the share of successful episodes, in percent; a success has return 1."""
    report = rlt.evaluate(policy, env_id=KEY_TO_DOOR, target_returns=targets, num_episodes=num_episodes)
    return 100 * report.targets[0].mean


def main(folder, num_walks=1_000, train_steps=300, num_episodes=100):
    walks = Path(folder) / "walks"
    if not walks.exists():  # random walks, as: rlt collect rl_transformer/KeyToDoor-v0 --output ... --num-episodes ...
        run_rlt(["collect", KEY_TO_DOOR, "--output", str(walks), "--num-episodes", str(num_walks)])
    data = rlt.open_trajectories(f"rlt:{walks}")
    print(f"{num_walks} random walks, of which {data.episode_returns.sum():.0f} succeed")

    transformer = policies(f"{folder}/dt", data, train_steps, {})
    # The same network, sampler and number of updates, without returns, on the successful walks only.
    best_only = {"model.conditions": [], "dataset.min_return": 1.0}
    cloner = policies(f"{folder}/bc", data, train_steps, best_only)
    scores = {
        "Decision Transformer, target return 1": [success(policy, [1.0], num_episodes) for policy in transformer],
        "%BC, the successful walks": [success(policy, [], num_episodes) for policy in cloner],
    }
    for name, values in scores.items():
        print(f"{name:<40} {np.mean(values):5.1f} % success, seeds {SEEDS}: {np.round(values, 1)}")
    print("Caveat: two seeds on one dataset establish nothing; other seeds may reverse the order.")
    print("rlt reproduce key-to-door runs more seeds and datasets, and gives an interval.")


if __name__ == "__main__":
    main("runs/example-03")
