"""The judge's estimators beside those of sb-obp (one step) and d3rlpy (fitted Q evaluation), on the same logs.

    python -m venv other && other/bin/pip install torch==2.13.0 numpy scipy scikit-learn pandas matplotlib seaborn h5py click \
        structlog colorama dataclasses-json tqdm pyyaml mypy-extensions farama-notifications cloudpickle gym-notices
    other/bin/pip install --no-deps obp==0.4.1 d3rlpy==2.8.1 gym==0.26.2 gymnasium==1.0.0
    python studies/judge_beside_libraries.py --python other/bin/python [--output studies/results/judge_beside_libraries.json]

The libraries need packages that contradict ours, so they run in an environment of their own: this script calls itself there.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS, LOGS, EPISODES, UPDATES = 5000, 2, 1000, 1000
STATES, ACTIONS = 8, 3
# d3rlpy fits values of discrete actions with a Huber loss, which is square only for errors below 1: beyond, it follows the median
# of what comes next, and hardly notices the 15 % of steps after which an episode ends.
UNIT = 20.0


def bandit():
    """Return a log of one-step episodes, a policy, and a critic that is wrong on purpose."""
    random = np.random.default_rng(7)
    behavior, policy = random.dirichlet(np.ones(4), (2, ROWS))
    actions = (random.random(ROWS)[:, None] >= behavior.cumsum(1)[:, :-1]).sum(1)
    rewards = random.normal(actions * 0.3, 1.0)
    return {
        "behavior": behavior,
        "policy": policy,
        "actions": actions,
        "rewards": rewards,
        "critic": random.normal(size=(ROWS, 4)),
    }


def process():
    """Return a small process whose values are known, and the best action of each of its states."""
    from rl_transformer.reproductions.finite_mdp import FiniteMDP

    random = np.random.default_rng(5)
    # An episode ends with probability 0.15 at every step.
    transitions = 0.85 * random.dirichlet(np.full(STATES, 0.5), (STATES, ACTIONS))
    mdp = FiniteMDP(transitions, random.normal(size=(STATES, ACTIONS)), np.full(STATES, 1 / STATES))
    return mdp, mdp.best_action_values.argmax(1)


def sampled(mdp, number):
    """Return a log of uniformly drawn actions."""
    uniform = np.full((STATES, ACTIONS), 1 / ACTIONS)
    return mdp.sample(uniform, EPISODES, np.random.default_rng(100 + number))


def our_one_step(data):
    """Return our estimates of the bandit's policy."""
    from rl_transformer.evaluation.offline.estimators import estimate_values
    from rl_transformer.evaluation.offline.logged_steps import LoggedSteps

    rows = np.arange(ROWS)
    steps = LoggedSteps(
        np.arange(ROWS + 1),
        data["rewards"],
        np.log(data["policy"][rows, data["actions"]]),
        np.log(data["behavior"][rows, data["actions"]]),
        data["critic"][rows, data["actions"]],
        (data["policy"] * data["critic"]).sum(1),
    )
    return {name: estimate.value for name, estimate in estimate_values(steps).items()}


def our_fitted_q(log, offsets, best):
    """Return the value of the policy by our networks, and by counting."""
    from rl_transformer.critics.features import step_features
    from rl_transformer.critics.networks import FitOptions, fit_action_values
    from rl_transformer.critics.tabular import TabularModel
    from rl_transformer.trajectories import TrajectoryDataset
    from rl_transformer.trajectories.spaces import Space

    policy = np.eye(ACTIONS)[best]
    episodes = [
        {
            "observations": np.eye(STATES, dtype=np.float32)[log.states[begin:end]],
            "actions": log.actions[begin:end],
            "rewards": log.rewards[begin:end],
            "terminated": True,
        }
        for begin, end in itertools.pairwise(offsets)
    ]
    dataset = TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(ACTIONS))
    folds = np.repeat(np.arange(EPISODES) % 2, np.diff(offsets))
    acts = policy[log.states]
    options = FitOptions(critic_updates=UPDATES)
    _, of_states = fit_action_values(step_features(dataset, 1), folds, acts, log.rewards, log.is_last, options)
    first = offsets[:-1]
    counted = TabularModel(log).evaluate(policy)[0]
    return {
        "networks": float(of_states[first].mean()),
        "counting": float((policy * counted).sum(1)[log.states[first]].mean()),
    }


def their_fitted_q(folder, number, unit):
    """Return d3rlpy's value of the policy; rewards are divided by ``unit`` for it."""
    import d3rlpy
    import torch
    from d3rlpy.ope import DiscreteFQE, FQEConfig

    log = dict(np.load(folder / f"log{number}.npz"))
    best = torch.from_numpy(log["best"])

    class Acts:
        """As much of a d3rlpy algorithm as its evaluation reads: the best action in each state."""

        def predict_best_action(self, x):
            """Return the action of each one-hot state."""
            return best[x.argmax(1)]

    class Holder:
        """Holds the above, as d3rlpy's algorithms do."""

        impl = Acts()

    d3rlpy.seed(number)
    observations = np.eye(STATES, dtype=np.float32)
    rewards = log["rewards"] / unit
    dataset = d3rlpy.dataset.MDPDataset(
        observations[log["states"]], log["actions"], rewards, log["is_last"].astype(float)
    )
    # Ours follows by 5 % per update, which is about as fast as a copy every 20 updates; d3rlpy's 100 would be 10 copies in all.
    config = FQEConfig(gamma=1.0, learning_rate=1e-3, batch_size=512, target_update_interval=20)
    evaluation = DiscreteFQE(algo=Holder(), config=config)
    logger = d3rlpy.logging.NoopAdapterFactory()
    evaluation.fit(dataset, n_steps=UPDATES, n_steps_per_epoch=UPDATES, show_progress=False, logger_adapter=logger)
    first = log["states"][log["offsets"][:-1]]
    return float(evaluation.predict_value(observations[first], log["best"][first]).mean() * unit)


def theirs(folder):
    """Return what the libraries say about the logs in a folder; runs in their environment."""
    from obp.ope import estimators as obp

    data = dict(np.load(folder / "bandit.npz"))
    rows = np.arange(ROWS)
    given = {
        "reward": data["rewards"],
        "action": data["actions"],
        "pscore": data["behavior"][rows, data["actions"]],
        "action_dist": data["policy"][:, :, None],
        "estimated_rewards_by_reg_model": data["critic"][:, :, None],
        "position": np.zeros(ROWS, dtype=int),
    }
    kinds = {
        "per_decision_importance_sampling": obp.InverseProbabilityWeighting,
        "weighted_importance_sampling": obp.SelfNormalizedInverseProbabilityWeighting,
        "fitted_q_evaluation": obp.DirectMethod,
        "doubly_robust": obp.DoublyRobust,
        "weighted_doubly_robust": obp.SelfNormalizedDoublyRobust,
    }
    found = {"one_step": {name: float(kind().estimate_policy_value(**given)) for name, kind in kinds.items()}}
    found["fitted_q"] = [
        {f"d3rlpy{note}": their_fitted_q(folder, number, unit) for note, unit in (("", UNIT), ("_unscaled", 1.0))}
        for number in range(LOGS)
    ]
    print("RESULT " + json.dumps(found))


def main():
    """Compare, print and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="The interpreter of the libraries' environment.")
    parser.add_argument("--output", default="studies/results/judge_beside_libraries.json")
    arguments = parser.parse_args()
    mdp, best = process()
    data = bandit()
    ours = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "bandit.npz", **data)
        for number in range(LOGS):
            log, offsets = sampled(mdp, number)
            columns = {name: getattr(log, name) for name in ("states", "actions", "rewards", "is_last")}
            np.savez(Path(folder) / f"log{number}.npz", **columns, offsets=offsets, best=best)
            ours.append(our_fitted_q(log, offsets, best))
        command = [arguments.python, __file__, "--theirs", folder]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (line,) = [line for line in answer.splitlines() if line.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    one_step = our_one_step(data)
    differences = {name: abs(one_step[name] - value) for name, value in found["one_step"].items()}
    exact = mdp.value(np.eye(ACTIONS)[best])
    fitted = [{**row, **values, "exact": exact} for row, values in zip(ours, found["fitted_q"], strict=True)]
    content = {
        "libraries": {"obp": "0.4.1", "d3rlpy": "2.8.1"},
        "one_step": {
            "rows": ROWS,
            "ours": one_step,
            "obp": found["one_step"],
            "largest_difference": max(differences.values()),
        },
        "fitted_q_evaluation": {
            "episodes": EPISODES,
            "updates": UPDATES,
            "unit_for_d3rlpy": UNIT,
            "logs": fitted,
            "largest_error": {
                name: max(abs(row[name] - exact) for row in fitted)
                for name in ("networks", "counting", "d3rlpy", "d3rlpy_unscaled")
            },
        },
    }
    print(json.dumps(content, indent=1))
    Path(arguments.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--theirs"]:
        theirs(Path(sys.argv[2]))
    else:
        main()
