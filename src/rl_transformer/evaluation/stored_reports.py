"""Read report.json files, and check that they can be compared: same environment, targets and episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonObject

_LARGEST = 1e100  # squares of larger numbers overflow
_FIX = "name a report.json that rlt train or rlt evaluate --json wrote"


@dataclass(frozen=True)
class StoredReport:
    """The fields of a report.json that a comparison uses."""

    path: Path
    values: JsonObject

    @property
    def seeds(self) -> list[int]:
        """Training seeds of the policies; empty for a single policy."""
        return self.values["training_seeds"]

    @property
    def policies(self) -> list[str]:
        """Content hashes of the policies."""
        policy = self.values["policy"]
        return policy if isinstance(policy, list) else [policy]

    def find_target(self, target_return: float | None) -> JsonObject:
        """Return the entry of a target return; for a policy that takes none, its only entry.

        Raises:
            RLTransformerError: The target was not evaluated, or None is given and there are several.
        """
        entries = self.values["targets"]
        given = [entry["target_return"] for entry in entries]
        if given == [None]:
            return entries[0]
        if target_return is None and len(given) == 1:
            return entries[0]
        listed = " ".join("null" if target is None else f"{target:g}" for target in given)
        if target_return is None:
            fix = f"choose one with --target-return, for example --target-return {given[0] or 0:g}"
            raise RLTransformerError(f"has several target returns: {listed}", where=self.path, fix=fix)
        if target_return not in given:
            fix = f"choose one that every report has, or evaluate with --target-return {target_return:g}"
            raise RLTransformerError(f"has no target return {target_return:g}, only {listed}", where=self.path, fix=fix)
        return entries[given.index(target_return)]


def read_report(path: Path, *, fix: str = _FIX) -> StoredReport:
    """Return a report of an evaluation.

    Args:
        path: A file.
        fix: Advice if there is no such file.

    Raises:
        RLTransformerError: The file is missing, or holds something else.
    """
    # Fields that reports of earlier versions lack have the value that says nothing.
    lacking: JsonObject = {"env_kwargs": {}, "wrappers": [], "max_steps": None, "training_seeds": [], "versions": {}}
    values = {**lacking, **read_json(path, fix=fix)}
    wrong = _wrong_field(values)
    if wrong is not None:
        raise RLTransformerError(f"is not an evaluation report: {wrong} is missing or wrong", where=path, fix=_FIX)
    return StoredReport(path, values)


def _wrong_field(values: Mapping[str, Any]) -> str | None:
    """Return the name of a field that is missing or has another form than reports have; None if there is none."""
    seeds = values["training_seeds"]
    policies = values.get("policy")
    policies = policies if isinstance(policies, list) else [policies]
    forms = {
        "env_id": isinstance(values.get("env_id"), str),
        "policy": all(isinstance(policy, str) for policy in policies),
        "seed": _is_count(values.get("seed")),
        "num_episodes": _is_count(values.get("num_episodes")),
        "training_seeds": isinstance(seeds, list) and all(map(_is_count, seeds)) and len(set(seeds)) == len(seeds),
        "versions": isinstance(values["versions"], dict),
        "targets": isinstance(values.get("targets"), list) and len(values["targets"]) > 0,
    }
    wrong = next((name for name, is_right in forms.items() if not is_right), None)
    if wrong is not None:
        return wrong
    count = values["num_episodes"] * max(1, len(seeds))
    for entry in values["targets"]:
        if not isinstance(entry, dict):
            return "an entry of targets"
        if not (entry.get("target_return") is None or _is_number(entry["target_return"])):
            return "target_return"
        if not _are_numbers(entry.get("episode_returns"), count):
            return "episode_returns"
        if not _are_numbers(entry.get("seed_means", []), len(seeds)):
            return "seed_means"
        if not (entry.get("interval") is None or _are_numbers(entry["interval"], 2)):
            return "interval"
    return None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    # This is also false for NaN and infinity.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(_is_number, values))


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a policy, or policies that differ in their training seed only."""

    name: str
    """As the user named it."""
    reports: Mapping[int | None, StoredReport]
    """One report, by None; or one of a single policy per training seed, in ascending order."""
    entries: Mapping[int | None, JsonObject]
    """The entry of the compared target in each report."""

    @property
    def means(self) -> dict[int | None, float]:
        """Mean return by training seed, in ascending order; by None for a single policy."""
        if None in self.reports and self.reports[None].seeds:
            pairs = zip(self.reports[None].seeds, self.entries[None]["seed_means"], strict=True)
            return {seed: float(mean) for seed, mean in sorted(pairs)}
        return {seed: float(np.mean(entry["episode_returns"])) for seed, entry in self.entries.items()}

    @property
    def first(self) -> JsonObject:
        """The entry of the first report."""
        return next(iter(self.entries.values()))


def make_side(name: str, reports: Mapping[int | None, StoredReport], target_return: float | None) -> Side:
    """Return one side of a comparison.

    Args:
        name: What the user calls it.
        reports: One report, by None; or one of a single policy per training seed, in ascending order.
        target_return: The target return to compare at; None: the only one.

    Raises:
        RLTransformerError: The target was not evaluated, or one policy stands for several seeds.
    """
    hashes = [policy for report in reports.values() for policy in report.policies]
    if len(set(hashes)) < len(hashes):
        # Copies of one policy have no spread between them, so the interval would be far too narrow.
        raise RLTransformerError("two training seeds hold the same policy", where=name, fix="count each policy once")
    return Side(name, reports, {seed: report.find_target(target_return) for seed, report in reports.items()})


def check_same_episodes(sides: Sequence[Side]) -> None:
    """Check that all reports are of the same environment and episodes; policies may have targets of their own.

    Raises:
        RLTransformerError: Something differs; the message names it with both values.
    """
    pairs = [(report, side.entries[seed]) for side in sides for seed, report in side.reports.items()]
    for pair in pairs[1:]:
        for field in ("env_id", "env_kwargs", "wrappers", "seed", "num_episodes"):
            _refuse_difference(field, pairs[0], pair, of_report=True)
        # The limit changes a result only if it has cut off an episode.
        if any(entry.get("truncated_by_limit", 0) for _, entry in (pairs[0], pair)):
            _refuse_difference("max_steps", pairs[0], pair, of_report=True)


def check_comparable(sides: Sequence[Side]) -> None:
    """Check that all reports are of the same environment, targets and episodes.

    Raises:
        RLTransformerError: Something differs; the message names it with both values.
    """
    check_same_episodes(sides)
    pairs = [(report, side.entries[seed]) for side in sides for seed, report in side.reports.items()]
    # Policies that take no target are compared with those of any target.
    taking = [pair for pair in pairs if pair[1]["target_return"] is not None]
    for pair in taking[1:]:
        _refuse_difference("target_return", taking[0], pair)
        _refuse_difference("target_unit", taking[0], pair)
        _refuse_difference("targets", taking[0], pair)


def _refuse_difference(
    field: str, one: tuple[StoredReport, JsonObject], other: tuple[StoredReport, JsonObject], *, of_report: bool = False
) -> None:
    expected, found = ((report.values if of_report else entry).get(field) for report, entry in (one, other))
    if found != expected:
        raise RLTransformerError(
            f"{field} is {found!r:.200}, and {expected!r:.200} in {one[0].path}",
            where=other[0].path,
            fix="evaluate both with the same environment, limit of steps, targets, --seed and --num-episodes",
        )
