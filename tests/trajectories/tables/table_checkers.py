"""Stand for files that make pyarrow misbehave; child processes import this instead of reading rows as they are."""

import os
import signal
import time

import numpy as np

from rl_transformer.runtime import table_files


def _misbehave_after_rows(harm):
    genuine = table_files.DatasetFiles.batches

    def batches(files, piece, columns):
        yield from genuine(files, piece, columns)
        harm()

    table_files.DatasetFiles.batches = batches
    table_files.main()


def crashes():
    _misbehave_after_rows(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def hangs():
    _misbehave_after_rows(lambda: time.sleep(600))


def hangs_at_the_start():
    time.sleep(600)


def fills_the_memory():
    _misbehave_after_rows(lambda: np.ones(1 << 33, np.uint8))


def talks():
    _misbehave_after_rows(lambda: os.write(1, b"words of a library\n"))
