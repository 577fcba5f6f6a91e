"""Measure what acting on a bare machine takes: megabytes of the install, and seconds until the first action.

    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu python studies/install_size.py

Makes two fresh environments in a temporary folder (the network is needed). One has torch (the CPU build), NumPy and safetensors, and
acts by this package's source in PYTHONPATH; the other has NumPy and onnxruntime, and acts by the client in an export. Both
act with the same policy of the preset gym's sizes, untrained. Seconds are those of a whole process, start of Python included; CPU
seconds beside them do not depend on what else the machine does.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rl_transformer
from rl_transformer.export.write import ExportOptions, export_policy
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "studies/results/install-size-2cpu-2026-11-26.json"
TORCH = (
    "import numpy, rl_transformer.policy as p\n"
    "print(p.load_policy('run').session(1.0).act(numpy.zeros(11, numpy.float32)))"
)
ONNX = (
    "import sys; sys.path.insert(0, 'export')\n"
    "import numpy, session\n"
    "print(session.Policy('export').session(1.0).act(numpy.zeros(11, numpy.float32)))"
)
INSTALLS = {
    "torch": (["torch", "numpy", "safetensors"], TORCH),
    "onnxruntime": (["numpy", "onnxruntime"], ONNX),
}
REPEATS = 5


def make_policy(folder):
    """Train for one update, so that there is a policy of the published size, and export it."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(31, 11)).astype(np.float32),
            "actions": random.uniform(-1, 1, (30, 3)).astype(np.float32),
            "rewards": random.normal(size=30),
            "truncated": True,
        }
        for _ in range(10)
    ]
    config = rl_transformer.preset("gym")
    config.output = str(folder / "run")
    config.training.train_steps = 1
    rl_transformer.train(config, dataset=rl_transformer.TrajectoryDataset.from_episodes(episodes))
    export_policy(rl_transformer.load_policy(folder / "run"), folder / "export", ExportOptions())


def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def first_action(python, script, folder):
    """Return (seconds, CPU seconds) of a process that acts once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-c", script], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, cpu


def install(place, packages):
    """Make an environment and return the megabytes that packages take in it."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    empty = megabytes(place)
    # The pinned torch is the CPU build where pip knows that; a newer one from PyPI brings gigabytes of CUDA.
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--no-cache-dir", "-c", "constraints.txt"]
    subprocess.run([*pip, *packages], cwd=ROOT, check=True)
    return megabytes(place) - empty


def main():
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_policy(folder)
        sizes = {kind: install(folder / kind, packages) for kind, (packages, _) in INSTALLS.items()}
        print("both are installed; now they act", flush=True)
        for kind, (packages, script) in INSTALLS.items():
            python = str(folder / kind / "bin/python")
            first_action(python, script, folder)  # writes the compiled modules
            times = [first_action(python, script, folder) for _ in range(REPEATS)]
            seconds, cpu = (statistics.median(part) for part in zip(*times, strict=True))
            rows.append(
                {
                    "install": kind,
                    "packages": packages,
                    "megabytes": sizes[kind],
                    "seconds": seconds,
                    "cpu_seconds": cpu,
                }
            )
    write_text(RESULT, to_json({"rows": rows, "repeats": REPEATS, "versions": versions("onnxruntime", "safetensors")}))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
