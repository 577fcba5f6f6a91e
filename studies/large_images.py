"""Measure training on images that do not fit into a memory limit: anonymous memory, and how long an update waits for data.

    python studies/large_images.py [--frames 1000000] [--json FILE]

Writes a store of random gray 84 x 84 frames, and makes updates of the presets image and atari on it. Before them the kernel is
asked to forget the file, so that frames come from the disk. The share of an update that waits for its batch is the time of
drawing and gathering the windows; nothing else runs at that time.
"""

import argparse
import gc
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from rl_transformer.bench.workloads import make_run
from rl_transformer.config import preset
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.runtime.system import keep_freed_memory
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.trajectories import DataSpec, Space, Trajectory, open_trajectories
from rl_transformer.trajectories.store import write_store

LENGTH = 1000
UPDATES = {"image": 12, "atari": 4}


def episodes(frames):
    """Yield episodes of one block of random frames, each rolled by another number of rows."""
    random = np.random.default_rng(0)
    block = random.integers(0, 256, (LENGTH, 1, 84, 84), dtype=np.uint8)
    actions = random.integers(0, 4, LENGTH)
    for episode in range(frames // LENGTH):
        observations = np.roll(block, episode % 84, axis=2)
        yield Trajectory(
            observations, np.roll(actions, episode), np.roll(actions == 1, episode).astype(float), truncated=True
        )


class AnonymousMemory:
    """Watches the peak of the process's memory that no file backs, in KiB."""

    def __enter__(self):
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.02):
            status = Path("/proc/self/status").read_text()
            self.peak = max(
                self.peak, next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
            )


def forget(store):
    """Ask the kernel to drop the pages of a store, so that they are read from the disk again."""
    for path in store.glob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(name, store):
    """Make updates of a preset; return seconds per update, the share of waiting for data, and the peak of memory."""
    config = preset(name)
    config.dataset.uri = f"rlt:{store}"
    with AnonymousMemory() as memory:
        dataset = open_trajectories(f"rlt:{store}")
        trainer = make_run(config, dataset).trainer
        trainer.model.train()
        source = trainer.batches
        waits = []

        class Timed:
            """The batches, with the time that drawing and gathering takes."""

            def __getattr__(self, attribute):
                return getattr(source, attribute)

            def gather(self, *arguments):
                began = time.perf_counter()
                try:
                    return source.gather(*arguments)
                finally:
                    waits.append(time.perf_counter() - began)

        trainer.batches = Timed()
        updates = EagerUpdates(trainer)
        updates.run(1, 1)  # allocates
        forget(store)
        waits.clear()
        began = time.perf_counter()
        updates.run(2, UPDATES[name])
        seconds = time.perf_counter() - began
    return {
        "preset": name,
        "updates": UPDATES[name],
        "windows": config.training.batch_size,
        "context_length": config.windows.context_length,
        "seconds_per_update": round(seconds / UPDATES[name], 3),
        "waiting_share": round(sum(waits) / seconds, 4),
        "peak_anonymous_mib": round(memory.peak / 1024),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        spec = DataSpec(Space.box((1, 84, 84), 0, 255, dtype="uint8"), Space.discrete(4), "random frames")
        with AnonymousMemory() as memory:
            began = time.perf_counter()
            write_store(store, spec, episodes(args.frames))
            seconds = time.perf_counter() - began
        rows = []
        for name in UPDATES:
            gc.collect()
            rows.append(measure(name, store))
        gigabytes = round(sum(path.stat().st_size for path in store.glob("*.npy")) / 1e9, 2)
    result = {
        "frames": args.frames,
        "gigabytes": gigabytes,
        "write_seconds": round(seconds, 1),
        "write_peak_anonymous_mib": round(memory.peak / 1024),
        "rows": rows,
        "versions": versions(),
        "hardware": describe_hardware(),
    }
    print(json.dumps(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
