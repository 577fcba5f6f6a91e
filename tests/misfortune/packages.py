"""Tampers with policies as they are handed on, and looks at what loading them reads and gives."""

import contextlib
import hashlib
import os
import sys
from unittest import mock

import numpy as np

from rl_transformer import RLTransformerError, load_policy
from tests.hostile_files import copy_of
from tests.misfortune.damage import DAMAGES
from tests.misfortune.forked import attack_forked
from tests.policy.kinds import KINDS
from tests.toys import point_data, untrained_policy

FILES = ("manifest.json", "policy.json", "policy.safetensors")
SMALL = {"hidden_size": 8, "n_layer": 1}


def make_policies(root):
    """Write policies of every kind; return (folder, policy) by kind."""
    policies = {}
    for kind, sections in KINDS.items():
        policy = untrained_policy(point_data(6), **{**sections, "model": {**SMALL, **sections.get("model", {})}})
        policy.save(root / kind)
        policies[kind] = root / kind, policy
    return policies


def what_it_does(policy):
    """Return what a policy is and does, to the bit."""
    session = policy.session(seed=3)
    actions = []
    for step in range(3):
        actions.append(np.asarray(session.act(np.full(2, 0.1 * step))).tobytes())
        session.observe(0.5)
    return policy.content_hash, actions


def tamper(policies, kind, random, work):
    """Tamper with a copy of a policy in one way; return the way and what was done, or None if it cannot be."""
    if work.is_file():  # as the last one was left
        work.unlink()
    folder = copy_of(policies[kind][0], work)
    others = [other for name, (other, _) in policies.items() if name != kind]
    names = list(DAMAGES)
    name = names[random.integers(len(names))]
    with contextlib.suppress(OSError, ValueError):
        return name, DAMAGES[name](folder, random, others)
    return None


def judge(folder, expected, opened):
    """Load a policy that was tampered with; return the outcome."""
    opened.clear()
    error = policy = None
    try:
        policy = load_policy(folder)
    except RLTransformerError as caught:
        error = caught
    if error is not None:
        assert error.problem
        assert error.fix
    else:
        assert what_it_does(policy) == expected, "another policy was loaded, without a word"
    foreign = {name for name in opened if os.path.dirname(name) == str(folder) and os.path.basename(name) not in FILES}
    assert not foreign, f"{foreign} was opened"
    return "used" if error is None else "refused"  # what was added is not read, and a file may be exchanged with itself


def share(folder, policy, work):
    """Hand a policy on as the Hub does, with links to files that are named by their hashes, and save it again."""
    blobs, snapshot = work / "blobs", work / "snapshots/v1"
    copy_of(folder, work)
    for path in (blobs, snapshot):
        path.mkdir(parents=True)
    for name in FILES:
        blob = blobs / hashlib.sha256((work / name).read_bytes()).hexdigest()
        (work / name).rename(blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    with mock.patch("huggingface_hub.snapshot_download", return_value=str(snapshot)):
        load_policy("hub:someone/policy@v1").save(work / "again")
    assert all((work / "again" / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
    return "equal"


def attack(root, number, seed, only):
    """Tamper with ``number`` policies; return the counts by way and what went wrong."""
    return attack_forked(root, lambda tally: _attack(root.resolve(), number, seed, tally))


def _attack(root, number, seed, tally):
    policies = make_policies(root / "genuine")
    expected = {kind: what_it_does(policy) for kind, (_, policy) in policies.items()}
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    for kind, (folder, policy) in policies.items():
        tally.judge("handed on", kind, lambda f=folder, p=policy: share(f, p, root / "work"))
    for which in range(number - len(policies)):
        random = np.random.default_rng([seed, which])
        kind = list(policies)[random.integers(len(policies))]
        done = tamper(policies, kind, random, root / "work")
        if done is not None and not tally.is_enough:
            tally.judge(
                done[0], f"{which}: {kind}: {done[1]}", lambda k=kind: judge(root / "work", expected[k], opened)
            )
