"""Compare an exported policy with its recorded steps: `python golden.py DIR [policy_step.onnx]`."""

import json
import sys
from pathlib import Path

import numpy as np


def replay(policy, golden):
    """Return the actions of the recorded steps, in order."""
    conditions = policy.rules["conditions"]
    session, actions = None, []
    for step, is_first in enumerate(golden["is_first"]):
        if is_first or session is None:
            targets = {c["name"]: target for c, target in zip(conditions, golden["targets"][step], strict=True)}
            target = targets.pop("return_to_go", None)
            target = None if policy.rules["target"] == "generated" else target
            session = policy.session(target, int(golden["seeds"][step]), targets)
        allowed = golden["allowed"][step] if "allowed" in golden else None
        actions.append(session.act(golden["observations"][step], allowed, policy.rules["golden"]["is_flat"]))
        outcomes = {c["outcome"]: golden[c["outcome"]][step] for c in conditions if c["outcome"] != "reward"}
        session.observe(golden["rewards"][step], golden["executed"][step], **outcomes)
    return np.stack(actions)


if __name__ == "__main__":
    from session import Policy

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    policy = Policy(folder, sys.argv[2] if len(sys.argv) > 2 else "policy.onnx")
    golden = dict(np.load(folder / "golden.npz", allow_pickle=False))
    difference = float(np.abs(replay(policy, golden) - golden["actions"]).max())
    print(json.dumps({"steps": len(golden["actions"]), "largest_difference": difference}))
    sys.exit(int(difference > policy.rules["golden"]["tolerance"]))
