"""Measure what one action at batch 1 costs: an exported policy, the library's session, and transformers' forward pass.

    npm install onnxruntime-web@1.30.0
    OMP_NUM_THREADS=1 python studies/act_latency.py [--web-runtime node_modules/onnxruntime-web/dist] [--chromium PATH]

All have the sizes of the published Gym policy (K = 20, width 128, 3 layers) and one thread; windows are full. The contenders
take turns, action by action. CPU time is measured, too, which other processes on the machine change less; a page in the
browser cannot read it.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

import rl_transformer
from rl_transformer.export.reference.session import Policy as ExportedPolicy
from rl_transformer.export.write import STEP, ExportOptions, export_policy
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions

RESULT = Path(__file__).parent / "results" / "act-export-2cpu-2026-11-26.json"
WARM_UP, ACTIONS = 40, 400
OBSERVATION = np.linspace(-1, 1, 11).astype(np.float32)


def make(folder, attention):
    """Return a policy of the published size after one update."""
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
    config.output = str(folder)
    config.model.attention = attention
    config.training.train_steps = 1
    config.training.threads = 1
    rl_transformer.train(config, dataset=rl_transformer.TrajectoryDataset.from_episodes(episodes))
    return rl_transformer.load_policy(folder)


def acting(session):
    """Return a function that acts once and observes."""

    def act():
        session.act(OBSERVATION)
        session.observe(0.01)

    return act


def transformers_forward():
    """Return a function that runs transformers' model on a full window, as its examples do."""
    model = DecisionTransformerModel(DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000)).eval()
    states, actions, returns = torch.randn(1, 20, 11), torch.randn(1, 20, 3), torch.randn(1, 20, 1)
    inputs = {
        "states": states,
        "actions": actions,
        "rewards": returns,
        "returns_to_go": returns,
        "timesteps": torch.arange(20)[None],
        "attention_mask": torch.ones(1, 20),
    }

    def act():
        with torch.no_grad():
            model(**inputs)

    return act


# Loads an exported policy, and leaves a function that acts once and returns the milliseconds.
PAGE = """
async ([name, folder, file, observation]) => {
  const ort = await import("/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("/ort/", location.href).href;
  ort.env.wasm.numThreads = 1;
  const { Policy } = await import(`/${folder}/session.mjs`);
  const rules = await (await fetch(`/${folder}/policy.json`)).json();
  const bytes = await (await fetch(`/${folder}/${file}`)).arrayBuffer();
  const session = (await Policy.load(ort, rules, bytes, file)).session({ targetReturn: 1 });
  window[name] = async () => {
    const begin = performance.now();
    await session.act(observation);
    session.observe(0.01);
    return performance.now() - begin;
  };
}
"""


class Isolated(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as a page that nothing else can look into, for which browsers have a clock of 5 us, not 100."""

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def browser(folder, runtime, chromium):
    """Yield functions that act once in Chromium and return the milliseconds, by name, and its version."""
    from playwright.sync_api import sync_playwright

    (folder / "ort").symlink_to(runtime.absolute())
    (folder / "page.html").write_text("<!doctype html><title>latency</title>")
    handler = functools.partial(Isolated, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = program.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        assert page.evaluate("crossOriginIsolated")
        for name, exported, file in (("full", "export", "policy.onnx"), ("step", "export-sliding", STEP)):
            page.evaluate(PAGE, [name, exported, file, OBSERVATION.tolist()])
        acts = {
            "browser, full windows": functools.partial(page.evaluate, "full()"),
            "browser, cached step": functools.partial(page.evaluate, "step()"),
        }
        yield acts, program.version
        program.close()
    server.shutdown()


def measure(contenders, pages):
    """Return (wall, CPU) milliseconds of each action by contender; a page's CPU time is not known."""
    wall = {name: [] for name in (*contenders, *pages)}
    cpu = {name: [] for name in contenders}
    for turn in range(WARM_UP + ACTIONS):
        for name, act in contenders.items():
            begin = time.perf_counter_ns(), time.process_time_ns()
            act()
            if turn >= WARM_UP:
                wall[name].append((time.perf_counter_ns() - begin[0]) / 1e6)
                cpu[name].append((time.process_time_ns() - begin[1]) / 1e6)
        for name, act in pages.items():
            milliseconds = act()
            if turn >= WARM_UP:
                wall[name].append(milliseconds)
    return wall, cpu


def summarize(times, name):
    """Return the median, the 99th percentile and the ratio of the medians."""
    if name not in times:
        return None
    baseline = float(np.median(times["transformers' forward"]))
    median = float(np.median(times[name]))
    p99 = float(np.quantile(times[name], 0.99))
    return {"median_ms": median, "p99_ms": p99, "of_transformers": median / baseline}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--web-runtime", type=Path, default=Path("node_modules/onnxruntime-web/dist"))
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full, sliding = make(folder / "full", "full"), make(folder / "sliding", "sliding_window")
        export_policy(full, folder / "export", ExportOptions())
        export_policy(sliding, folder / "export-sliding", ExportOptions(cached=True))
        contenders = {
            "transformers' forward": transformers_forward(),
            "session, full windows": acting(full.session(1.0)),
            "session, sliding window": acting(sliding.session(1.0)),
            "ONNX, full windows": acting(ExportedPolicy(folder / "export").session(1.0)),
            "ONNX, cached step": acting(ExportedPolicy(folder / "export-sliding", STEP).session(1.0)),
        }
        with browser(folder, arguments.web_runtime, arguments.chromium) as (pages, chromium):
            print("everything is prepared; now they act", flush=True)
            load = os.getloadavg()[0]
            wall, cpu = measure(contenders, pages)
    web = json.loads((arguments.web_runtime.parent / "package.json").read_text())["version"]
    result = {
        "rows": [{"what": name, "wall": summarize(wall, name), "cpu": summarize(cpu, name)} for name in wall],
        "actions": ACTIONS,
        "threads": 1,
        "load_of_the_machine_before": load,
        "versions": {**versions("onnxruntime", "transformers"), "onnxruntime-web": web, "chromium": chromium},
    }
    write_text(RESULT, to_json(result))
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
