"""metrics.jsonl: one line an update, and evaluations; times go to timing.jsonl."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rl_transformer.errors import require
from rl_transformer.files import write_text, writing

_LINES_EVERY_SECONDS = 10.0


class Metrics:
    """Collects rows and writes them to disk now and then and before every checkpoint, in order.

    Rows of a step after the newest checkpoint are cut back when a run is resumed.
    """

    def __init__(self, folder: Path, config: Any = None) -> None:
        self._path, self._timing_path = folder / "metrics.jsonl", folder / "timing.jsonl"
        self._rows: list[str] = []
        self._flushed = time.monotonic()
        self._trackers: list[Any] = []
        if config is not None and config.training.tensorboard:
            require("tensorboard", extra="track", purpose="training.tensorboard")
            from torch.utils.tensorboard.writer import SummaryWriter

            writer = SummaryWriter(str(folder / "tensorboard"))
            self._trackers.append(
                lambda step, row: (
                    [writer.add_scalar(name, value, step) for name, value in row.items()] and writer.flush()
                )
            )
        if config is not None and config.training.wandb:
            require("wandb", extra="track", purpose="training.wandb")
            import wandb as weights_and_biases  # pyright: ignore[reportMissingImports]

            run = weights_and_biases.init(
                project="rl_transformer", name=folder.name, dir=str(folder), config=config.to_dict()
            )
            self._trackers.append(lambda step, row: run.log(dict(row), step=step))

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
        self._rows, self._flushed = [], time.monotonic()

    def time(self, step: int, seconds: float) -> None:
        """Record how long the updates since the last call took."""
        _append(self._timing_path, [json.dumps({"step": step, "seconds": round(seconds, 3)})])

    def cut_back(self, step: int) -> bool:
        """Drop rows after ``step``, whose updates will be made again; return whether there were any."""
        if not self._path.exists():
            return False
        with writing(self._path):
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))
        return len(kept) < len(lines)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _append(path: Path, lines: list[str]) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def _step_of(line: str) -> float:
    """Return a row's step; a row that a kill cut in half belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int, start: int, *, shown: bool = True) -> None:
        self._total, self._shown, self._last_line = total, shown, time.monotonic()
        self._terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="step", disable=not self._terminal, dynamic_ncols=True)
        self._start, self._began = start, time.monotonic()

    def update(self, step: int, loss: float) -> None:
        """Show that ``step`` is done."""
        if self._terminal:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(1)
        elif self._shown and (time.monotonic() - self._last_line > _LINES_EVERY_SECONDS or step == self._total):
            self._last_line = time.monotonic()
            rate = (step - self._start) / max(1e-9, time.monotonic() - self._began)
            print(
                f"step {step}/{self._total}  loss {loss:.4f}  {rate:.1f} steps/s  eta {(self._total - step) / max(rate, 1e-9):.0f} s",
                file=sys.stderr,
                flush=True,
            )

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
