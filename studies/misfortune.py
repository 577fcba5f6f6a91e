"""Attack commands, files and formats many times, and write what came of it.

    python studies/misfortune.py FAMILY [--number N] [--only PART ...] [--seed S] [--json FILE]

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
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

Found = tuple[dict[str, dict[str, int]], list[str]]
"""Counts of each command or kind of file, and what went wrong."""
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rl_transformer.runtime.machine import versions  # noqa: E402


def kills(root: Path, number: int, seed: int, only: list[str]) -> Found:
    """Kill every writing command at random times and at random operations on the disk."""
    from tests.misfortune.kills import SHARES, kill_many

    total = sum(SHARES.values())
    return over_commands(
        root, only, lambda victim: kill_many(victim, max(1, number * SHARES[victim.name] // total), seed)
    )


def disk(root: Path, number: int, seed: int, only: list[str]) -> Found:
    """Let the operations of every writing command on the disk fail in eight ways, at most ``number`` of each command."""
    from tests.misfortune.kills import fail_everywhere

    return over_commands(root, only, lambda victim: fail_everywhere(victim, number, seed))


def over_commands(root: Path, only: list[str], attack: Callable) -> Found:
    """Attack every command; return the counts of each, and what went wrong."""
    from tests.misfortune.commands import make_writers
    from tests.misfortune.kills import Victim

    commands = {}
    wrong = []
    for name, writer in make_writers(root).items():
        if only and name not in only:
            continue
        began = time.monotonic()
        victim = Victim(name, writer, root)
        attack(victim)
        seconds = round(time.monotonic() - began)
        commands[name] = {**victim.counts, "operations": len(victim.operations), "seconds": seconds}
        wrong += victim.wrong
        print(name, commands[name], *victim.wrong, sep="\n  ", file=sys.stderr, flush=True)
    return commands, wrong


def fuzz(root: Path, number: int, seed: int, only: list[str]) -> Found:
    """Change bytes and values of every kind of file, ``number`` times in all."""
    from tests.misfortune.fuzzing import SHARES, fuzz_kinds

    return fuzz_kinds(root, number, seed, only or list(SHARES))


def files(root: Path, number: int, seed: int, only: list[str]) -> Found:
    """Give hostile files to the commands that read their kind, under an audit hook."""
    from tests.hostile_files import make_all
    from tests.misfortune.hostile import Attack

    make_all(root / "genuine")
    attack = Attack(root)
    attack.warm_up()
    for which in range(number):
        attack.try_file(seed, which)
    return attack.counts, attack.wrong


def bombs(root: Path, number: int, seed: int, only: list[str]) -> Found:
    """Open small files that declare much; each may take two seconds of processor time and 512 MiB."""
    from tests.hostile_files import make_all
    from tests.misfortune.hostile import Attack, make_bombs, try_bomb

    make_all(root / "genuine")
    attack = Attack(root)
    for bomb in make_bombs(root, number, seed):
        seconds, mebibytes = try_bomb(attack, bomb)
        if seconds > 2 or mebibytes > 512:
            attack.wrong.append(f"{bomb[0]}: {seconds:.1f} s, {mebibytes:.0f} MiB")
        counts = attack.counts[bomb[1]]
        counts["most_milliseconds"] = max(counts.get("most_milliseconds", 0), round(1000 * seconds))
        counts["most_mebibytes"] = max(counts.get("most_mebibytes", 0), round(mebibytes))
    return attack.counts, attack.wrong


def attack_of(module: str) -> Callable[[Path, int, int, list[str]], Found]:
    """Return the attack of a module of tests/misfortune that is a family of its own."""
    return lambda *args: import_module(f"tests.misfortune.{module}").attack(*args)


FAMILIES = {
    "kills": (kills, 1000),
    "disk": (disk, 200),
    "fuzz": (fuzz, 100_000),
    "files": (files, 1000),
    "bombs": (bombs, 300),
    "checkpoints": (attack_of("checkpoints"), 60_000),
    "resumes": (attack_of("resumes"), 936),
    "not-finite": (attack_of("not_finite"), 500),
    "names": (attack_of("names"), 10_000),
    "packages": (attack_of("packages"), 20_000),
    "defects": (attack_of("defects"), 6_000),
    "logs": (attack_of("logs"), 200_000),
    "repeats": (attack_of("repeats"), 84),
    "signals": (attack_of("stops"), 300),
}


def summed(parts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of the counts of all parts."""
    sums: dict[str, int] = {}
    for counts in parts.values():
        for name, count in counts.items():
            sums[name] = max(sums.get(name, 0), count) if name.startswith("most_") else sums.get(name, 0) + count
    return sums


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--number", type=int, help="cases; how many are usual depends on the family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=[], help="commands or kinds of files; with --json, others are kept"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    attack, usual = FAMILIES[args.family]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        parts, wrong = attack(Path(folder), args.number or usual, args.seed, args.only)
    # Parts that were attacked before, by another call, stay.
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() and args.only else {}
    parts = {**before.get("parts", {}), **parts}
    wrong = [*before.get("wrong", []), *wrong]
    seconds = before.get("seconds", 0) + round(time.monotonic() - began)
    result = {"family": args.family, **summed(parts), "wrong": wrong, "parts": parts, "seed": args.seed}
    result |= {"seconds": seconds, "commit": commit.strip(), "load": round(os.getloadavg()[0], 1)}
    result["versions"] = versions()
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
