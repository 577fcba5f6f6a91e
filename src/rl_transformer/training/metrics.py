"""Write metrics.jsonl (one line per update and per evaluation) and timing.jsonl, and show progress.

Times have a file of their own, so that metrics.jsonl is the same for every run of the same configuration.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime import disk
from rl_transformer.runtime.files import translate_write_errors, write_text
from rl_transformer.runtime.reading import parse_json, read_bytes
from rl_transformer.runtime.types import JsonMapping, JsonObject

_LINES_EVERY_SECONDS = 10.0
_MISSING = "earlier_rows_missing"

Tracker = Callable[[int, Mapping[str, float]], None]
"""A function of (step, values by name) that reports one row to an experiment tracker."""


def make_trackers(folder: Path, training: TrainingConfig, config: JsonMapping) -> list[Tracker]:
    """Return the experiment trackers that the options enable.

    Args:
        folder: The run folder.
        training: The options ``tensorboard`` and ``wandb``.
        config: The complete configuration, which Weights & Biases stores with the run.

    Raises:
        RLTransformerError: A tracker's package is not installed.
    """
    trackers: list[Tracker] = []
    if training.tensorboard:
        require("tensorboard", extra=None, purpose="training.tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def write(step: int, row: Mapping[str, float]) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, step)
            writer.flush()  # TensorBoard buffers two minutes of events, which a killed run would lose

        trackers.append(write)
    if training.wandb:
        require("wandb", extra="track", purpose="training.wandb")
        wandb = import_module("wandb")
        run = wandb.init(project="rl_transformer", name=folder.name, dir=str(folder), config=dict(config))
        trackers.append(lambda step, row: run.log(dict(row), step=step))
    return trackers


class Metrics:
    """Buffers rows and appends them to metrics.jsonl every ten seconds and before every checkpoint.

    When a run is resumed, rows after its checkpoint are dropped, because those updates are made again. The file of an
    interrupted run is therefore the same as that of an uninterrupted one.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        self._path = folder / "metrics.jsonl"
        self._timing_path = folder / "timing.jsonl"
        self._rows: list[str] = []
        self._flushed = time.monotonic()
        self._trackers = trackers

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Record the values of update ``step``."""
        # NaN is not JSON, and most readers reject it. A loss that is not finite ends the run before it comes here.
        self._rows.append(json.dumps({"step": step, **row}, allow_nan=False))
        for tracker in self._trackers:
            tracker(step, row)
        # A flush syncs to disk, which takes longer than many an update. Every ten seconds is often enough to follow a
        # run with `tail -f`.
        if time.monotonic() - self._flushed > _LINES_EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write everything recorded so far to disk, durably."""
        _append(self._path, self._rows)
        self._rows = []
        self._flushed = time.monotonic()

    def time(self, step: int, seconds: float) -> None:
        """Record that the updates since the last call took ``seconds``."""
        _append(self._timing_path, [json.dumps({"step": step, "seconds": round(seconds, 3)})])

    def truncate_after(self, step: int, *, evaluated: bool = False) -> bool:
        """Drop the rows after ``step``, whose updates will be made again; return True if there were any.

        Args:
            step: Update of the checkpoint.
            evaluated: Keep the row of the evaluation at ``step``; otherwise it will be made again, too.

        Raises:
            RLTransformerError: Rows up to ``step`` are damaged, missing or there twice, so the file could not be that of an
                uninterrupted run.
        """
        if not self._path.exists():
            if step:
                # Said in the file, so that it counts as whole from here on.
                write_text(self._path, json.dumps({"step": step, _MISSING: True}) + "\n")
            return False
        with translate_write_errors(self._path):
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [_read_row(line) for line in lines]
        # What follows the last whole row up to the step was written after it, perhaps in part.
        is_kept = [
            row.step < step or (row.step == step and (row.is_update or row.says_missing or evaluated)) for row in rows
        ]
        count = max((i for i, kept in enumerate(is_kept, start=1) if kept), default=0)
        self._check_whole(rows[:count], step)
        if count < len(lines):
            write_text(self._path, "".join(f"{line}\n" for line in lines[:count]))
        return count < len(lines)

    def _check_whole(self, rows: Sequence[_Row], last: int) -> None:
        """Check that there is one row of every update up to ``last``, in order, each followed by one evaluation at most."""
        begins_later = bool(rows) and rows[0].says_missing
        step = int(rows[0].step) if begins_later else 0
        good = int(begins_later)
        was_update = begins_later
        for row in rows[good:]:
            is_next = row.is_update and row.step == step + 1
            is_evaluation = not row.is_update and row.step == step and was_update
            if not is_next and not is_evaluation:
                break
            good += 1
            step += is_next
            was_update = row.is_update
        if good == len(rows) and step == last:
            return
        raise RLTransformerError(
            f"line {good + 1} is not the row of update {step + 1}: it is damaged, missing or duplicated",
            where=self._path,
            fix="restore the file from a copy, or move it away to continue without the earlier rows",
        )


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return the rows of a run's metrics.jsonl, in order.

    Raises:
        RLTransformerError: There is no such file, or a line of it is damaged.
    """
    path = folder / "metrics.jsonl"
    lines = read_bytes(path, fix="name the folder of a training run").splitlines()
    fix = "continue the run with --resume, which drops a partly written last line, or restore the file"
    return [parse_json(line, where=f"{path}, line {number}", fix=fix) for number, line in enumerate(lines, start=1)]


def last_and_best(folder: Path) -> dict[str, dict[str, float]]:
    """Return the last and the best value of every score in metrics.jsonl, with the step of the best one.

    Always report both: the best one is the maximum of several noisy scores, so it overestimates the policy.
    """
    scores: dict[str, list[tuple[float, int]]] = {}
    for row in read_metrics(folder):
        for name, value in row.items():
            if name.startswith("return_at_"):
                scores.setdefault(name, []).append((value, row["step"]))
    summary = {}
    for name, history in scores.items():
        best, step = max(history, key=lambda pair: pair[0])
        summary[name] = {"last": history[-1][0], "best": best, "best_step": step}
    return summary


def _append(path: Path, lines: list[str]) -> None:
    if not lines:
        return
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rows must reach the disk before the checkpoint that follows them. A resumed run can drop rows that are too new,
        # but it cannot recover rows that are missing.
        disk.DISK.append(path, "".join(f"{line}\n" for line in lines).encode())


class _Row(NamedTuple):
    step: float
    """Infinity for a line that is no row, because the process was killed while it wrote it."""
    is_update: bool
    """False for the row of an evaluation."""
    says_missing: bool = False
    """True for the row that stands for all rows up to its step, which are not in the file."""


def _read_row(line: str) -> _Row:
    try:
        row = json.loads(line)
        return _Row(float(row["step"]), "gradient_norm" in row, _MISSING in row)
    except (ValueError, KeyError, TypeError):
        return _Row(float("inf"), False)


class Progress:
    """Shows a progress bar on a terminal, and prints a line every ten seconds elsewhere.

    Args:
        total: Updates of the whole run.
        start: Updates already made.
        shown: False in processes other than the main one.
    """

    def __init__(self, total: int, start: int, *, shown: bool = True) -> None:
        self._total = total
        self._shown = shown
        # A log file would record every refresh of a bar as a line.
        self._last_line = time.monotonic()
        self._terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="step", disable=not self._terminal, dynamic_ncols=True)
        self._start = start
        self._began = time.monotonic()

    def update(self, step: int, loss: float) -> None:
        """Show that update ``step`` is done, with its loss."""
        if self._terminal:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(step - self._bar.n)  # a block of updates is reported once, by its last step
        elif self._shown and (time.monotonic() - self._last_line > _LINES_EVERY_SECONDS or step == self._total):
            self._last_line = time.monotonic()
            rate = (step - self._start) / max(1e-9, time.monotonic() - self._began)
            eta = (self._total - step) / max(rate, 1e-9)
            line = f"step {step}/{self._total}  loss {loss:.4f}  {rate:.1f} steps/s  eta {eta:.0f} s"
            print(line, file=sys.stderr, flush=True)

    def write(self, message: str) -> None:
        """Print a line without breaking the progress bar."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Stop updating the bar; it stays visible."""
        self._bar.close()
