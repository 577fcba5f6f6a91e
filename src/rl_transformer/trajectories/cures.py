"""Write a clean store of data with defects: what can be cured without inventing anything is, and the rest is named.

Episodes are dropped or cut, never changed inside: a value that was put in place of a missing one would be learned as if it
had been recorded. Returns are computed again from what remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.blocks import one_by_one
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.columns import ColumnBuilder
from rl_transformer.trajectories.cure_report import Cure, Treatment
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.end_flags import DONE, FIRST, TERMINATED, end_marks, flag_kind, inner_end
from rl_transformer.trajectories.finding_kinds import CURED, READER_KINDS
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.readers.interface import Source
from rl_transformer.trajectories.row_checks import padding_begins
from rl_transformer.trajectories.store import write_store
from rl_transformer.trajectories.trajectory import Trajectory

# If more episodes than this have no end, having none is how the data was recorded, and no fault of some of them.
_FEW_UNFINISHED = 0.2
# Kinds that are cured by leaving out the episodes that have them, beside all errors of level error in an episode.
_COPIES = "duplicate episode"
_UNFINISHED = "unfinished episode"
_CONSECUTIVE = "consecutive ends"
_INNER_END = "end inside of an episode"
_PADDING = "padding"
_FINAL = "final_observation"


class Curing:
    """Passes on the episodes of a source that are clean, or can be made so, and remembers what it did.

    Args:
        spec: Spaces of the data.
        findings: What was found in all of it.
        num_episodes: Episodes of the source.
    """

    def __init__(self, spec: DataSpec, findings: list[Finding], num_episodes: int) -> None:
        self._spec = spec
        kinds = {finding.kind: finding for finding in findings}
        unfinished = kinds[_UNFINISHED].count if _UNFINISHED in kinds else 0
        self._drops_unfinished = 0 < unfinished <= _FEW_UNFINISHED * num_episodes
        self._drops_single = {f.field for f in findings if f.kind == _CONSECUTIVE}
        self._finals = [f for f in findings if f.field.startswith(_FINAL)]
        # A column that is no column of numbers in some episode cannot be one in the others.
        broken = ("not numbers", "length mismatch")
        parts = ("observations", "actions", "rewards")
        self._left_out = {f.field: f for f in findings if f.kind in broken and not f.field.startswith(parts)}
        self._flags = {f.field for f in findings if f.kind == _INNER_END}
        # Content and not numbers: copies may come from files that were merged in any order.
        self._seen: dict[bytes, int] = {}
        self._last_flag = ""
        self.cures: dict[tuple[str, str], Cure] = {}
        self.episodes_in = 0
        self.steps_in = 0

    def __call__(self, episodes: Iterator[Trajectory]) -> Iterator[Trajectory]:
        """Yield what is clean."""
        # Counted here and not by the reader, so that the account cannot leave anything out.
        for index, episode in enumerate(episodes):
            self.episodes_in += 1
            self.steps_in += _length(episode)
            yield from self._cured(index, episode)

    def _cured(self, index: int, episode: Trajectory) -> Iterator[Trajectory]:
        extras = {name: v for name, v in episode.extras.items() if name not in self._left_out}
        for name in sorted(self._left_out.keys() & episode.extras.keys()):
            found = self._left_out[name]
            reason = f"{found.problem}; the extra column was left out of all episodes"
            self._note("removed", found.kind, name, found.level, reason, index, 0)
        episode = replace(episode, extras=extras)
        if self._finals and episode.final_observation is not None:
            for found in self._finals:
                reason = f"{found.problem}; final observations were left out of all episodes"
                self._note("removed", found.kind, found.field, found.level, reason, index, 0)
            episode = replace(episode, final_observation=None)
        for piece in self._pieces(index, episode):
            piece = self._without_padding(index, piece)
            if self._is_kept(index, piece):
                yield piece

    def _pieces(self, index: int, episode: Trajectory) -> Iterator[Trajectory]:
        """Yield the episodes between flags of ends that are set inside of a recording."""
        if not self._flags or _length(episode) == 0:
            yield episode
            return
        extras = {name: v for name, v in episode.extras.items() if name not in self._flags}
        borders: dict[int, tuple[bool, bool]] = {}
        for name in self._flags & set(episode.extras):
            borders |= _borders(name, np.asarray(episode.extras[name]), _length(episode))
        if borders:
            reason = f"cut into {len(borders) + 1} episodes at the flag, whose returns were recomputed"
            self._note("cut", _INNER_END, ", ".join(sorted(self._flags)), "error", reason, index, 0)
        # The observation after an inner end was not recorded: the next row is that of another episode.
        begin = 0
        for end, (terminated, truncated) in sorted(borders.items()):
            piece = _rows_of(replace(episode, extras=extras), slice(begin, end))
            yield replace(piece, terminated=terminated, truncated=truncated, final_observation=None)
            begin = end
        yield (
            _rows_of(replace(episode, extras=extras), slice(begin, None)) if begin else replace(episode, extras=extras)
        )

    def _without_padding(self, index: int, episode: Trajectory) -> Trajectory:
        begin = padding_begins(episode)
        if begin is None:
            return episode
        steps = _length(episode) - begin
        reason = "steps in which everything is 0, up to the end, were cut off"
        self._note("cut", _PADDING, "episode", "warning", reason, index, steps)
        return replace(_rows_of(episode, slice(0, begin)), final_observation=None)

    def _is_kept(self, index: int, episode: Trajectory) -> bool:
        """Return False, after a note, for an episode that cannot be learned from."""
        length = _length(episode)
        # An error anywhere costs the whole episode: its returns-to-go would lack what was dropped.
        errors, content = _errors_of(self._spec, episode)
        if errors:
            for position, finding in enumerate(errors):
                reason = f"{finding.problem}, and the recording holds nothing to repair the episode with"
                # Steps are counted once, whatever else the episode has.
                steps = 0 if position else length
                self._note("dropped", finding.kind, finding.field, "error", reason, index, steps)
            return False
        flag = "terminated" if episode.terminated else "truncated" if episode.truncated else ""
        if length == 1 and self._last_flag in self._drops_single and flag:
            reason = "single steps after an end, at which the flag was still set, were dropped"
            self._note("dropped", _CONSECUTIVE, flag, "warning", reason, index, length)
            return False
        self._last_flag = flag if length > 1 else self._last_flag
        if self._drops_unfinished and not flag:
            reason = "its returns would be too small, and few episodes are like it"
            self._note("dropped", _UNFINISHED, "episode", "warning", reason, index, length)
            return False
        first = self._seen.setdefault(content, index)
        if first != index:
            reason = "copies of earlier episodes were dropped"
            self._note("dropped", _COPIES, "episode", "warning", reason, index, length)
            return False
        return True

    def _note(self, action: str, kind: str, name: str, level: str, reason: str, episode: int, steps: int) -> None:
        cure = self.cures.setdefault((kind, name), Cure(kind, name, level, action, reason))
        cure.episodes += 1
        cure.steps += steps
        if len(cure.places) < MAX_POSITIONS:
            cure.places.append({"episode": episode})


def write_cured(source: Callable[[], Source], dataset: TrajectoryDataset, folder: str | Path) -> Treatment:
    """Write a clean store of the data and return what was done, finding by finding.

    Args:
        source: Opens the data, which is read once more.
        dataset: The same data with its findings.
        folder: Folder of the store; it must be empty or absent.

    Raises:
        RLTransformerError: No episode is left, the folder is not empty, or a defect can only be cured at its source.
    """
    opened = source()
    findings = list(dataset.findings)
    curing = Curing(opened.spec, findings, _num_episodes(dataset, findings))
    notes: list[Finding] = []

    def episodes() -> Iterator[Trajectory]:
        yield from curing(one_by_one(opened.trajectories))
        # Added when all of it is known, and before the store is complete.
        notes.extend(_as_note(cure) for cure in curing.cures.values())
        notes.extend(note for note in opened.notes if note.kind in READER_KINDS)

    try:
        written = write_store(folder, opened.spec, episodes(), notes=notes)
    except RLTransformerError as error:
        if curing.episodes_in and "holds no episode" in error.problem:
            listed = "; ".join(str(cure) for cure in curing.cures.values())
            fix = "repair the recording itself; rlt inspect lists every defect with its place"
            raise RLTransformerError(f"no episode is left: {listed}", where=folder, fix=fix) from None
        raise
    cures = [*curing.cures.values(), *_left(written.findings)]
    return Treatment(
        written.location.removeprefix("rlt:"),
        curing.episodes_in,
        curing.steps_in,
        len(written),
        written.num_steps,
        cures,
    )


def _num_episodes(dataset: TrajectoryDataset, findings: list[Finding]) -> int:
    return max(len(dataset), 1, *(p.get("episode", 0) + 1 for f in findings for p in f.positions))


def _left(findings: list[Finding]) -> Iterator[Cure]:
    """Yield what the new store still has, and why."""
    for finding in findings:
        if finding.kind != CURED:
            reason = f"{finding.problem}; only the source, or a choice of yours, can change that: {finding.fix}"
            yield Cure(finding.kind, finding.field, finding.level, "left", reason)


def _as_note(cure: Cure) -> Finding:
    problem = f"{cure.kind}: {cure.action} in {cure.episodes} episodes of the source: {cure.reason}"
    positions = [dict(place) for place in cure.places]
    return Finding("info", CURED, f"{cure.field} ({cure.kind})", problem, "nothing", cure.episodes, positions)


def _errors_of(spec: DataSpec, episode: Trajectory) -> tuple[list[Finding], bytes]:
    """Return the errors of one episode, and a hash of its content."""
    # The same checks as of the whole data, of one episode alone.
    checker = Checker(spec)
    content = blake2b(digest_size=16)

    def append(name: str, rows: np.ndarray) -> None:
        if name in ("observations", "actions", "rewards"):
            content.update(np.ascontiguousarray(rows).data)

    ColumnBuilder(spec, append, checker).add(0, episode)
    return [finding for finding in checker.findings if finding.level == "error"], content.digest()


def _borders(name: str, values: np.ndarray, length: int) -> dict[int, tuple[bool, bool]]:
    """Return the rows at which further episodes begin inside of one, with the flags of the episodes before them."""
    if values.ndim == 0 or values.size != length or inner_end(name, values) is None:
        return {}
    # The flag of the last row says how the recording ends, which the episode knows already.
    marks = np.asarray(end_marks(name, values)).reshape(-1).astype(bool)
    kind = flag_kind(name)
    if kind == FIRST:
        return {int(row): (False, True) for row in np.flatnonzero(marks[1:]) + 1}
    is_end = kind in (TERMINATED, DONE)
    return {int(row) + 1: (is_end, not is_end) for row in np.flatnonzero(marks[:-1])}


def _rows_of(episode: Trajectory, rows: slice) -> Trajectory:
    def cut(values: object) -> object:
        if isinstance(values, dict):
            return {name: cut(part) for name, part in values.items()}
        if isinstance(values, tuple):
            return tuple(cut(part) for part in values)
        return np.asarray(values)[rows]

    return replace(
        episode,
        observations=cut(episode.observations),
        actions=episode.actions[rows],
        rewards=episode.rewards[rows],
        extras={name: np.asarray(values)[rows] for name, values in episode.extras.items()},
    )


def _length(episode: Trajectory) -> int:
    return len(episode.rewards) if np.ndim(episode.rewards) else 0
