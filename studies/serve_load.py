"""Measure `rlt serve` with 1,000 live sessions of the paper's Hopper model on one core, and its memory over time.

    python studies/serve_load.py compute                     # the service alone, in processor time
    python studies/serve_load.py rate [--sessions 1000] [--seconds 60] [--per-second 100 200 400]
    python studies/serve_load.py soak [--minutes 5]          # with a control that leaks, and must be caught
    python studies/serve_load.py soak --minutes 30

The server is a process on one core (taskset where there is one), its clients are threads of this one on the others. Requests
are sent at planned times, and a latency counts from the planned time, so that a slow answer hides no wait of the next; each
is an `act` that holds the outcome of the action before. Compute per action is processor time from the request's JSON to the
answer's without the network, for batches of some sizes: other work on the machine does not count, as it does in latencies.
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

from rl_transformer import load_policy
from rl_transformer.bench.live_sessions import CONTEXT, untrained
from rl_transformer.runtime.files import to_json
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.messages import Start, parse_body, read_act
from rl_transformer.serve.replies import reply_json
from rl_transformer.serve.service import Service

RESULTS = Path("studies/results")
CLIENTS = 16
MIB = 2**20
MOST_GROWTH = 5  # MiB in a whole soak, after its start; less cannot be told from the noise of the heap
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
        self.acted = set()

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

    acted = server.acted
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def fill(server, sessions, observations):
    """Let all sessions act until their windows are full, and then in batches of every size."""
    connection = server.connect()
    # oneDNN compiles a program for some sizes of batches when they first occur, and keeps it; a leak goes on growing.
    for step, count in enumerate([len(sessions)] * CONTEXT + list(range(1, 65))):
        outcome = {"outcome": {"reward": 1.0}} if step else {}
        observation = observations[step % len(observations)]
        requests = [{"session": one, "observation": observation, **outcome} for one in sessions[:count]]
        send(connection, "POST", "/v1/act", {"requests": requests})
    connection.close()
    server.acted = set(sessions)


def measure_compute(arguments, folder, observations):
    """Return processor milliseconds per action from the JSON to the JSON, for batches of some sizes."""
    service = Service(load_policy(Path(folder) / "policy"), ServeLimits(max_sessions=arguments.sessions))
    sessions = [service.open(Start(1000.0))["session"] for _ in range(arguments.sessions)]

    def act(chosen, outcome):
        body = json.dumps({"observation": observations[0], **outcome}).encode()
        began = time.process_time()
        requests = [read_act(session, parse_body(body, service.limits)) for session in chosen]
        results = service.act(requests)
        replies = [reply_json(result) for result in results]
        seconds = time.process_time() - began
        assert all(reply.status_code == 200 and b"action" in reply.body for reply in replies)
        return seconds / len(chosen)

    further = {"outcome": {"reward": 1.0}}
    for step in range(CONTEXT):
        act(sessions, further if step else {})
    rows = []
    for size in (1, 4, 16, 64):
        starts = [(size * place) % (len(sessions) - size) for place in range(800 // size)]
        row = {"sessions_together": size, **quantiles([act(sessions[at : at + size], further) for at in starts])}
        rows.append(row)
        print(row)
    return rows


def quantiles(seconds):
    return {f"p{q}_ms": round(1000 * float(np.quantile(seconds, q / 100)), 2) for q in (50, 99)}


def measure_rates(arguments, folder, observations):
    rows = []
    with Server(folder, "--max-sessions", str(arguments.sessions)) as server:
        sessions = open_sessions(server, arguments.sessions)
        fill(server, sessions, observations)
        for per_second in arguments.per_second:
            before = server.metrics()
            busy = server.processor_seconds()
            clients = time.process_time()
            latencies = load(server, sessions, per_second, arguments.seconds, observations)
            acts, batches, _ = np.subtract(server.metrics(), before)
            busy = server.processor_seconds() - busy
            rows.append(
                {
                    "actions_per_second": per_second,
                    "actions": len(latencies),
                    "errors": 0,  # an error ends the study
                    "request": quantiles(latencies),
                    "sessions_per_batch": round(acts / batches, 2),
                    "processor_ms_per_action": round(1000 * busy / len(latencies), 3),
                    "processor_share": round(busy / arguments.seconds, 3),
                    # Threads of one Python process: near 1 they are the limit, and not the server.
                    "clients_share": round((time.process_time() - clients) / arguments.seconds, 3),
                    "others_on_this_machine": os.getloadavg()[0],
                }
            )
            print(rows[-1])
    return rows


def soak(arguments, folder, observations, leaks):
    """Return the resident memory once per interval while sessions come, act and go."""
    # In its first minutes a leak fills what the start has left free, and shows only then.
    minutes = min(arguments.minutes, 5) if leaks else arguments.minutes
    samples = []
    actions = 0
    with Server(folder, leaks=leaks) as server:
        lasting = open_sessions(server, 200)
        fill(server, lasting, observations)
        began = time.monotonic()
        while time.monotonic() < began + 60 * minutes:
            actions += len(load(server, lasting, 50, 1, observations))
            connection = server.connect()
            for session in open_sessions(server, 10):
                send(connection, "POST", f"/v1/sessions/{session}/act", {"observation": observations[0]})
                send(connection, "DELETE", f"/v1/sessions/{session}", {})
                actions += 1
            for wrong in ("{", '{"observation": [1]}', '{"observation": [' + "0," * 20_000 + "0]}"):
                headers = {"Content-Type": "application/json"}
                connection.request("POST", f"/v1/sessions/{lasting[0]}/act", wrong, headers)
                connection.getresponse().read()
            connection.close()
            samples.append((time.monotonic() - began, actions, server.memory()))
    # The first quarter fills caches and the heap. The slope of the rest is what counts.
    rest = samples[len(samples) // 4 :]
    slope = float(np.polyfit([done for _, done, _ in rest], [memory for _, _, memory in rest], 1)[0])
    growth = slope * (rest[-1][1] - rest[0][1]) / MIB
    row = {
        "leaks": leaks,
        "minutes": minutes,
        "actions": actions,
        "memory_mib": [round(memory / MIB, 1) for _, _, memory in samples[:: max(1, len(samples) // 20)]],
        "bytes_per_action": round(slope, 1),
        "growth_mib": round(growth, 2),
        "is_flat": growth < MOST_GROWTH,
    }
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compute", "rate", "soak"])
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
        if arguments.what == "compute":
            result["rows"] = measure_compute(arguments, folder, observations)
        elif arguments.what == "rate":
            result["rows"] = measure_rates(arguments, folder, observations)
        else:
            result["rows"] = [soak(arguments, folder, observations, leaks) for leaks in (True, False)]
    path = Path(arguments.json) if arguments.json else RESULTS / f"serve-{arguments.what}.json"
    path.write_text(to_json(result))
    rows = result["rows"]
    return 0 if arguments.what != "soak" or (not rows[0]["is_flat"] and rows[1]["is_flat"]) else 1


if __name__ == "__main__":
    sys.exit(main())
