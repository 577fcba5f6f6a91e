"""Let openpi's stock client play Hopper through `rlt serve`, and compare the returns with those of `rlt evaluate`.

    python -m venv openpi && openpi/bin/pip install openpi-client==0.1.2 gymnasium==1.4.0 mujoco==4.0.0 imageio packaging
    pip install --no-deps --target client openpi-client==0.1.2
    PYTHONPATH=client python studies/serve_openpi.py RUN --openpi openpi/bin/python .venv/bin/python

The client declares that it needs numpy 1, so that it has an environment of its own; it also runs with numpy 2. Both sides
play the same seeds, with the same MuJoCo. With numpy 2 on both, returns are equal to the bit. numpy 1 multiplies Hopper's
float32 control cost in double precision, so that a return of it may differ by 1e-10.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from rl_transformer import evaluate, load_policy
from rl_transformer.runtime.files import to_json
from rl_transformer.runtime.machine import describe_hardware, versions

SEED = 4_000_000
# The whole program of the robot: nothing of this package is imported.
ROBOT = """
import json, sys
import gymnasium, mujoco, numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

host, port, env_id, target, seed, episodes = sys.argv[1:]
robot = WebsocketClientPolicy(host, int(port))
environment = gymnasium.make(env_id)
returns, lengths = [], []
for episode in range(int(episodes)):
    observation, _ = environment.reset(seed=int(seed) + episode)
    message = {"reset": True, "target_return": float(target), "seed": int(seed) + episode}
    total, length, done = 0.0, 0, False
    while not done:
        action = robot.infer({"observation": observation, **message})["actions"][0]
        observation, reward, terminated, truncated, _ = environment.step(action)
        message = {"reward": float(reward)}
        total, length, done = total + float(reward), length + 1, terminated or truncated
    returns.append(total)
    lengths.append(length)
print(json.dumps({"returns": returns, "lengths": lengths, "numpy": numpy.__version__, "mujoco": mujoco.__version__,
                  "policy": robot.get_server_metadata()["policy"]}))
"""


def play(arguments, python):
    """Return what a robot has measured, with a server of its own."""
    words = [sys.executable, "-m", "rl_transformer", "serve", arguments.run, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            found = re.search(r"http://([\d.]+):(\d+)", line)
            if found:
                break
        words = [python, "-c", ROBOT, *found.groups(), arguments.env_id, arguments.target, SEED, arguments.episodes]
        done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=True)
    finally:
        server.terminate()
        server.wait()
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--openpi", nargs="+", required=True, help="Pythons that can import openpi_client.")
    parser.add_argument("--env-id", default="Hopper-v5")
    parser.add_argument("--target", type=float, default=800.0)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--json", default="studies/results/serve-openpi.json")
    arguments = parser.parse_args()
    policy = load_policy(arguments.run)
    report = evaluate(
        policy, env_id=arguments.env_id, target_returns=[arguments.target], num_episodes=arguments.episodes, seed=SEED
    )
    here = report.to_dict()["targets"][0]
    robots = []
    for python in arguments.openpi:
        began = time.perf_counter()
        robot = play(arguments, python)
        pairs = zip(robot["returns"], here["episode_returns"], strict=True)
        robot["largest_difference"] = max(abs(a - b) for a, b in pairs)
        robot["lengths_are_equal"] = robot["lengths"] == here["episode_lengths"]
        robot["policy_is_equal"] = robot.pop("policy") == policy.content_hash
        robot["milliseconds_per_step"] = round(1000 * (time.perf_counter() - began) / sum(robot["lengths"]), 3)
        robots.append(robot)
        print(f"numpy {robot['numpy']}: largest difference of a return {robot['largest_difference']:.2g}")
    result = {
        "env_id": arguments.env_id,
        "target_return": arguments.target,
        "episodes": arguments.episodes,
        "steps": sum(here["episode_lengths"]),
        "openpi_client": "0.1.2",
        "policy": policy.content_hash,
        "evaluate": {"returns": here["episode_returns"], "lengths": here["episode_lengths"]},
        "robots": robots,
        "versions": versions(),
        "hardware": describe_hardware(),
    }
    Path(arguments.json).write_text(to_json(result))
    is_right = all(
        robot["lengths_are_equal"]
        and robot["policy_is_equal"]
        and robot["largest_difference"] <= (1e-10 if robot["numpy"].startswith("1.") else 0)
        for robot in robots
    )
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
