"""Counts what became of the cases of an attack, and what went wrong."""

import io
import os
import sys
import time
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

MOST_WRONG = 50
"""An attack that found so much ends: more of the same says nothing new."""


class Tally:
    """Counts outcomes by part of an attack."""

    def __init__(self):
        self.parts = {}
        self.wrong = []
        self._began = time.monotonic()

    def judge(self, part, what, case):
        """Run a case, which returns its outcome in a word; a claim that does not hold or any other exception is wrong.

        Args:
            part: The part of the attack that it belongs to.
            what: What is done, for a report.
            case: A function without arguments.
        """
        counts = self.parts.setdefault(part, {"cases": 0})
        counts["cases"] += 1
        try:
            outcome = case()
        except Exception as error:
            outcome = "wrong"
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            self.wrong.append(f"{part}: {what}: {type(error).__name__}: {error}"[:600] + f" ({where})")
        counts[outcome] = counts.get(outcome, 0) + 1
        return outcome

    @property
    def is_enough(self):
        """True if so much went wrong that the attack ends."""
        return len(self.wrong) >= MOST_WRONG

    def report(self, part):
        """Print the counts of a part."""
        seconds = time.monotonic() - self._began
        print(
            f"{seconds:.0f} s",
            part,
            self.parts.get(part),
            *self.wrong[-3:],
            sep="\n  ",
            file=sys.__stderr__,
            flush=True,
        )


@contextmanager
def without_waiting():
    """Do not wait for the disk inside the block: its content is gone anyway if the machine loses its power meanwhile."""
    genuine, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = genuine


@contextmanager
def silenced():
    """Keep what runs print inside the block from the terminal; yields what collects it."""
    with io.StringIO() as said, redirect_stdout(said), redirect_stderr(said):
        yield said
