"""End a call of foreign code that takes too long, as far as such code can be ended: when it is Python, or returns to it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.system import has_timer, start_timer, stop_timer

_Result = TypeVar("_Result")


class TimeIsUp(BaseException):
    """A call took too long. A BaseException, so that the ``except Exception`` of foreign code does not swallow it."""


class TimeLimit:
    """Limits how long calls may take.

    Args:
        seconds: The limit of every call; None: none.
        name: Name of the option, for messages.

    Raises:
        RLTransformerError: It is not above 0, or calls cannot be limited here.
    """

    def __init__(self, seconds: float | None, *, name: str) -> None:
        self._seconds = seconds
        self._is_running = False
        self._is_over = False
        if seconds is None:
            return
        if not (seconds > 0 and math.isfinite(seconds)):
            raise RLTransformerError(f"is {seconds:g}", where=name, fix="give a number of seconds above 0")
        if not has_timer():
            raise RLTransformerError("needs signals, which this system lacks", where=name, fix="leave it out")
        if threading.current_thread() is not threading.main_thread():
            problem = "needs the main thread of the process, and this is another one"
            raise RLTransformerError(problem, where=name, fix="leave it out, or call this in the main thread")

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Return what a function returns.

        Raises:
            TimeIsUp: It takes too long.
        """
        if self._seconds is None:
            return function()
        self._is_running = True
        self._is_over = False
        # Again and again: code that catches every exception would swallow the first.
        before = start_timer(self._seconds, 1.0, self._interrupt)
        try:
            try:
                result = function()
            finally:
                self._is_running = False
        finally:
            stop_timer(before)
        if self._is_over:  # the function went on in spite of it
            raise TimeIsUp
        return result

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_running:
            self._is_over = True
            raise TimeIsUp
