"""Stand for libraries of file formats that files make misbehave; child processes import this."""

import os
import signal
import time

import numpy as np

from rl_transformer.errors import RLTransformerError


def passes(path):
    path.read_bytes()


def crashes(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def exits(path):
    os._exit(0)


def hangs(path):
    time.sleep(600)


def takes_three_seconds(path):
    time.sleep(3)


def fills_the_memory(path):
    np.ones(1 << 33, np.uint8)


def refuses(path):
    raise RLTransformerError("holds something else", where=path, fix="repair it")


def cannot_read(path):
    raise OSError("damaged")
