"""Measure `rlt serve` with 1,000 live sessions of the paper's Hopper model on one core, and its memory over time.

    python studies/serve_load.py rate [--sessions 1000] [--seconds 60] [--per-second 100 200 400]
    python studies/serve_load.py soak [--minutes 5]          # with a control that leaks, and must be caught
    python studies/serve_load.py soak --minutes 30

The server is a process on one core (taskset where there is one), its clients are threads of this one on the others. Requests
are sent at planned times, whether or not earlier ones were answered, so that a slow answer delays no measurement; each is an
`act` that holds the outcome of the action before. Compute per action is what the server measures: the seconds of its batches
by their sessions.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from rl_transformer.bench.live_sessions import untrained
from rl_transformer.runtime.files import to_json
from rl_transformer.runtime.machine import describe_hardware, versions

RESULTS = Path("studies/results")
CLIENTS = 16
MIB = 2**20
# A fault to be caught: every request leaves 8 KiB behind.
LEAK = """
import sys
from rl_transformer.serve.service import Service
kept, act = [], Service.act
def leaking(self, requests):
    kept.extend(bytearray(8192) for _ in requests)
    return act(self, requests)
Service.act = leaking
from rl_transformer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Server:
    """`rlt serve` on one core."""

    def __init__(self, folder, *words, leaks=False):
        pinned = ["taskset", "-c", "0"] if shutil.which("taskset") else []
        program = ["-c", LEAK] if leaks else ["-m", "rl_transformer"]
        words = [*program, "serve", str(folder), "--port", "0", "--requests-per-second", "1e6", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*pinned, sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
        )
        for line in self.process.stdout:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                break
        self.address = found[1], int(found[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def connect(self):
        return http.client.HTTPConnection(*self.address, timeout=60)

    def memory(self):
        """Return the resident memory, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self):
        """Return the sums of the server's batches: (sessions, batches, seconds)."""
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        names = "rlt_batch_sessions_sum", "rlt_batch_sessions_count", "rlt_batch_seconds_sum"
        return [float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in names]


def send(connection, method, path, body):
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 400:
        raise RuntimeError(content)
    return json.loads(content)


def open_sessions(server, count):
    connection = server.connect()
    sessions = [send(connection, "POST", "/v1/sessions", {"target_return": 1000.0})["session"] for _ in range(count)]
    connection.close()
    return sessions


def load(server, sessions, per_second, seconds, observations):
    """Return the latencies of requests at planned times; the sessions act in turn."""
    latencies = []
    start = time.perf_counter() + 0.2

    def client(number):
        connection = server.connect()
        # Requests number, number + CLIENTS, ...: a session's requests come from one client, one after the other.
        mine = sessions[number::CLIENTS]
        for place, planned in enumerate(np.arange(number / per_second, seconds, CLIENTS / per_second)):
            session = mine[place % len(mine)]
            wait = start + planned - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            body = {"observation": observations[(number + place) % len(observations)]}
            if session in acted:
                body["outcome"] = {"reward": 1.0}
            send(connection, "POST", f"/v1/sessions/{session}/act", body)
            acted.add(session)
            latencies.append(time.perf_counter() - start - planned)
        connection.close()

    acted = server.__dict__.setdefault("acted", set())
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def quantiles(seconds):
    return {f"p{q}_ms": round(1000 * float(np.quantile(seconds, q / 100)), 2) for q in (50, 99)}


def measure_rates(arguments, folder, observations):
    rows = []
    with Server(folder, "--max-sessions", str(arguments.sessions)) as server:
        sessions = open_sessions(server, arguments.sessions)
        load(
            server,
            sessions,
            max(arguments.per_second),
            20 * arguments.sessions / max(arguments.per_second),
            observations,
        )
        for per_second in arguments.per_second:
            before = server.metrics()
            busy = server.processor_seconds()
            latencies = load(server, sessions, per_second, arguments.seconds, observations)
            acts, batches, seconds = np.subtract(server.metrics(), before)
            rows.append(
                {
                    "actions_per_second": per_second,
                    "actions": len(latencies),
                    "errors": 0,  # an error ends the study
                    "request": quantiles(latencies),
                    "compute_per_action_ms": round(1000 * seconds / acts, 3),
                    "sessions_per_batch": round(acts / batches, 2),
                    "processor_share": round((server.processor_seconds() - busy) / arguments.seconds, 3),
                }
            )
            print(rows[-1])
    return rows


def soak(arguments, folder, observations, leaks):
    """Return the resident memory once per interval while sessions come, act and go."""
    minutes = min(arguments.minutes, 1) if leaks else arguments.minutes
    memory = []
    actions = 0
    with Server(folder, leaks=leaks) as server:
        lasting = open_sessions(server, 200)
        end = time.monotonic() + 60 * minutes
        interval = 60 * minutes / 20
        while time.monotonic() < end:
            following = time.monotonic() + interval
            while time.monotonic() < following:
                actions += len(load(server, lasting, 150, 2, observations))
                connection = server.connect()
                for session in open_sessions(server, 20):
                    send(connection, "POST", f"/v1/sessions/{session}/act", {"observation": observations[0]})
                    send(connection, "DELETE", f"/v1/sessions/{session}", {})
                    actions += 1
                for wrong in ("{", '{"observation": [1]}', '{"observation": [' + "0," * 20_000 + "0]}"):
                    path = f"/v1/sessions/{lasting[0]}/act"
                    connection.request("POST", path, wrong, {"Content-Type": "application/json"})
                    connection.getresponse().read()
                connection.close()
            memory.append(server.memory())
    # The first quarter fills caches and histories. The slope of the rest is what counts.
    rest = np.array(memory[len(memory) // 4 :]) / MIB
    slope = float(np.polyfit(np.arange(len(rest)) * interval / 60, rest, 1)[0])
    per_action = slope * minutes * MIB / actions
    row = {
        "leaks": leaks,
        "minutes": minutes,
        "actions": actions,
        "memory_mib": [round(value / MIB, 1) for value in memory],
        "slope_mib_per_minute": round(slope, 3),
        "bytes_per_action": round(per_action, 1),
        "is_flat": per_action < 200,
    }
    print(row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rate", "soak"])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--per-second", type=float, nargs="+", default=[50, 100, 200, 300])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    observations = random.normal(size=(64, 11)).round(4).tolist()
    result = {"sessions": arguments.sessions, "versions": versions(), "hardware": describe_hardware()}
    with tempfile.TemporaryDirectory() as folder:
        untrained("full").save(Path(folder) / "policy")
        if arguments.what == "rate":
            result["rows"] = measure_rates(arguments, folder, observations)
        else:
            result["rows"] = [soak(arguments, folder, observations, leaks) for leaks in (True, False)]
    path = Path(arguments.json) if arguments.json else RESULTS / f"serve-{arguments.what}.json"
    path.write_text(to_json(result))
    rows = result["rows"]
    return 0 if arguments.what == "rate" or (not rows[0]["is_flat"] and rows[1]["is_flat"]) else 1


if __name__ == "__main__":
    sys.exit(main())
