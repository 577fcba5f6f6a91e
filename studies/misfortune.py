"""Attack commands, files and formats many times, and write what came of it: kills, failing disks, hostile files, bombs, mutations.

    python studies/misfortune.py FAMILY [--number N] [--seed S] [--json FILE]

The families are those of tests/misfortune; the tests run a small part of each, and the slow tests more. Exit code 1: something was
wrong, and the file says what.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rl_transformer.runtime.machine import versions  # noqa: E402


def kills(root: Path, number: int, seed: int) -> dict:
    """Kill every writing command at random times and at random operations on the disk."""
    from tests.misfortune.kills import SHARES, kill_many

    total = sum(SHARES.values())
    return over_commands(root, lambda victim: kill_many(victim, max(1, number * SHARES[victim.name] // total), seed))


def disk(root: Path, number: int, seed: int) -> dict:
    """Let the operations of every writing command on the disk fail in eight ways, at most ``number`` of each command."""
    from tests.misfortune.kills import fail_everywhere

    return over_commands(root, lambda victim: fail_everywhere(victim, number, seed))


def over_commands(root: Path, attack) -> dict:
    """Attack every command; return the sums, and the counts of each."""
    from tests.misfortune.commands import make_writers
    from tests.misfortune.kills import Victim

    sums: dict[str, int] = {}
    commands = {}
    wrong = []
    for name, writer in make_writers(root).items():
        began = time.monotonic()
        victim = Victim(name, writer, root)
        attack(victim)
        operations = len(victim.operations)
        commands[name] = {**victim.counts, "operations": operations, "seconds": round(time.monotonic() - began, 1)}
        wrong += victim.wrong
        for key, count in victim.counts.items():
            sums[key] = sums.get(key, 0) + count
        print(name, commands[name], *victim.wrong, sep="\n  ", file=sys.stderr, flush=True)
    return {**sums, "wrong": wrong, "commands": commands}


FAMILIES = {"kills": (kills, 1000), "disk": (disk, 200)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--number", type=int, help="cases; how many are usual depends on the family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    attack, usual = FAMILIES[args.family]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        found = attack(Path(folder), args.number or usual, args.seed)
    result = {"family": args.family, **found, "seed": args.seed, "seconds": round(time.monotonic() - began)}
    result |= {"commit": commit.strip(), "load": round(os.getloadavg()[0], 1), "versions": versions()}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
