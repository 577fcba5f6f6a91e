"""Handle SIGTERM, SIGINT and SIGHUP so that a run saves its state first and then exits with 143, 130 or 129."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from rl_transformer.runtime.system import stop_signals

STOP_SIGNALS = stop_signals()


class Interrupted(BaseException):
    """Raised when a stop signal was received; ``exit_code`` is 128 plus its number, as shells report it.

    It is a BaseException, like KeyboardInterrupt, so that ``except Exception`` does not swallow it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self._name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"stopped by {self._name}"


class StopSignals:
    """Turns the first SIGTERM, SIGINT or SIGHUP inside a ``with`` block into a flag; the second one ends the process at once.

    A handler that raised an exception instead could interrupt an optimizer step or a file write halfway. The loop that
    owns the block looks at the flag between two updates.
    """

    patient = False
    """True in worker processes, which may get one signal twice, from the terminal and from their parent.

    Further signals are then ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the signal to stop for: one sent to this process, or to another one that trains with it."""
        # Kept apart from `received`: a first Ctrl-C after another process's signal must not end this one at once.
        self._own: int | None = None
        self._previous: dict[int, Any] = {}  # signal number -> handler before the block
        self._raises = False

    def __enter__(self) -> StopSignals:
        for number in STOP_SIGNALS:
            try:
                # nohup lets SIGHUP be ignored, and means it. Shells let SIGINT be ignored in the background.
                always = number in (signal.SIGTERM, signal.SIGINT)
                if always or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
            except ValueError:
                # Python allows handlers in the main thread only. A program that trains in another thread handles
                # signals itself.
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
            # The user insists, perhaps because saving hangs. sys.exit() would raise an exception in whatever code is
            # running, which may be the save itself.
            os._exit(128 + number)
        self._own = self.received = number
        if self._raises:
            raise Interrupted(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` inside the block as soon as a signal arrives; for work that may be lost, as an evaluation.

        A step of an environment can take seconds, and whoever stops a program may not wait for it.
        """
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received; for points at which nothing remains to be saved."""
        if self.received is not None:
            raise Interrupted(self.received)
