"""metrics.jsonl: one line per update, and evaluations; times go to timing.jsonl. Also the progress display."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import require
from rl_transformer.runtime.files import translate_write_errors, write_text
from rl_transformer.runtime.types import JsonMapping, JsonObject

_LINES_EVERY_SECONDS = 10.0


Tracker = Callable[[int, Mapping[str, float]], None]
"""Reports one row, (step, numbers by name), to an experiment tracker."""


def make_trackers(folder: Path, training: TrainingConfig, config: JsonMapping) -> list[Tracker]:
    """Return the trackers that the options ask for.

    Args:
        folder: The run folder.
        training: Which trackers.
        config: The whole configuration, to be stored with the run.
    """
    trackers: list[Tracker] = []
    if training.tensorboard:
        require("tensorboard", extra=None, purpose="training.tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def write(step: int, row: Mapping[str, float]) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        trackers.append(write)
    if training.wandb:
        require("wandb", extra="track", purpose="training.wandb")
        wandb = import_module("wandb")
        run = wandb.init(project="rl_transformer", name=folder.name, dir=str(folder), config=dict(config))
        trackers.append(lambda step, row: run.log(dict(row), step=step))
    return trackers


class Metrics:
    """Collects rows and writes them to disk now and then and before every checkpoint, in order.

    When a run is resumed, rows after its checkpoint are dropped: those updates are made again.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        self._path = folder / "metrics.jsonl"
        self._timing_path = folder / "timing.jsonl"
        self._rows: list[str] = []
        self._flushed = time.monotonic()
        self._trackers = trackers

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Record numbers of update ``step``."""
        self._rows.append(json.dumps({"step": step, **row}, allow_nan=False))
        for tracker in self._trackers:
            tracker(step, row)
        if time.monotonic() - self._flushed > _LINES_EVERY_SECONDS:  # so that a run can be watched
            self.flush()

    def flush(self) -> None:
        """Make everything recorded so far durable."""
        _append(self._path, self._rows)
        self._rows = []
        self._flushed = time.monotonic()

    def time(self, step: int, seconds: float) -> None:
        """Record how long the updates since the last call took."""
        _append(self._timing_path, [json.dumps({"step": step, "seconds": round(seconds, 3)})])

    def truncate_after(self, step: int) -> bool:
        """Drop rows after ``step``, whose updates will be made again; return True if there were any."""
        if not self._path.exists():
            return False
        with translate_write_errors(self._path):
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))
        return len(kept) < len(lines)


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_and_best(folder: Path) -> dict[str, dict[str, float]]:
    """Return the last and the best value of every score in metrics.jsonl, with the step of the best one.

    The best score is the largest of several noisy ones, so it is always reported beside the last one.
    """
    scores: dict[str, list[tuple[float, int]]] = {}
    for row in read_metrics(folder):
        for name, value in row.items():
            if name.startswith("return_at_"):
                scores.setdefault(name, []).append((value, row["step"]))
    found = {}
    for name, history in scores.items():
        best, step = max(history, key=lambda pair: pair[0])
        found[name] = {"last": history[-1][0], "best": best, "best_step": step}
    return found


def _append(path: Path, lines: list[str]) -> None:
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def _step_of(line: str) -> float:
    """Return a row's step; infinity for a row that a kill cut in half."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Progress:
    """A progress bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, total: int, start: int, *, shown: bool = True) -> None:
        self._total = total
        self._shown = shown
        self._last_line = time.monotonic()
        self._terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="step", disable=not self._terminal, dynamic_ncols=True)
        self._start = start
        self._began = time.monotonic()

    def update(self, step: int, loss: float) -> None:
        """Show that ``step`` is done."""
        if self._terminal:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(1)
        elif self._shown and (time.monotonic() - self._last_line > _LINES_EVERY_SECONDS or step == self._total):
            self._last_line = time.monotonic()
            rate = (step - self._start) / max(1e-9, time.monotonic() - self._began)
            eta = (self._total - step) / max(rate, 1e-9)
            line = f"step {step}/{self._total}  loss {loss:.4f}  {rate:.1f} steps/s  eta {eta:.0f} s"
            print(line, file=sys.stderr, flush=True)

    def write(self, message: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
