"""SIGTERM and SIGINT end a run in order: save, then exit with 143 or 130."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """A signal asked the run to stop; ``exit_code`` is 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self._name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"stopped by {self._name}"


class StopSignals:
    """Turns the first SIGTERM or SIGINT into a flag; the second one ends the process at once.

    Worker processes may get one signal twice, from the terminal and from their parent: they set ``patient``,
    and then only the first one counts.
    """

    patient = False

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal to stop by: this process's own, or one that another process was sent."""
        self._own: int | None = None
        self._previous: dict[int, Any] = {}  # signal number -> its handler before

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: whoever runs it there keeps its own handling
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._own is not None:
            if self.patient:
                return
            os._exit(128 + number)
        self._own = self.received = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal came: for loops that hold nothing to save."""
        if self.received is not None:
            raise Interrupted(self.received)
