"""Sends stop signals to a training run in all of its phases: it ends soon and by name, and the resumed run is the whole one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from rl_transformer import run as run_module
from rl_transformer.cli.main import main
from rl_transformer.training import trainer as trainer_module
from rl_transformer.training.checkpoint import newest_verified
from rl_transformer.training.metrics import read_metrics
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.training_run import TrainingRun
from rl_transformer.trajectories.store import write_store
from tests.misfortune.commands import SMALL, empty, leftovers, read_run
from tests.misfortune.forked import Ended, import_what_it_imports, run_forked
from tests.misfortune.tally import Tally
from tests.toys import POINT, PointEnv, point_data

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STEPS, EVERY = 24, 6
# Phases of a run: what is called when one begins, and how many times a run calls it.
PHASES = {
    "data": (run_module, "open_training_data", 1),
    "policy before training": (run_module, "build_policy", 1),
    "updates": (EagerUpdates, "_update", STEPS),
    "evaluation": (PointEnv, "step", 24),
    "checkpoint": (trainer_module, "save_checkpoint", STEPS // EVERY),
    "old checkpoints": (trainer_module, "prune_checkpoints", STEPS // EVERY),
    "policy folder": (TrainingRun, "finish", 1),
}
STEP_SECONDS = 2.0
"""What one step of the environment takes, while signals are sent in evaluations."""
SOON, AT_ONCE = 2.0, 1.0
"""Seconds within which a run ends after its first and after its second signal."""


class Sender:
    """Sends one or two signals to a process, the first a moment after it has said that its phase began.

    Args:
        chance: Draws the signals and the moments.
        said: File descriptor on which the process says so; None: the first moment is drawn from the first seconds.
        span: Seconds from which the moment is drawn.
    """

    def __init__(self, chance, said, span):
        self.signals = [chance.choice(SIGNALS)]
        self.waits = [chance.uniform(0, span)]
        if chance.random() < 0.25:
            self.signals.append(chance.choice(SIGNALS))
            self.waits.append(chance.uniform(0.0, 0.05))
        self.said = said
        self.since = time.monotonic() if said is None else None
        self.sent = []

    def __call__(self, process):
        """Look whether it is time; this is called again and again while the process runs."""
        if self.since is None:
            try:
                if os.read(self.said, 1):
                    self.since = time.monotonic()
            except BlockingIOError:
                return
        elif len(self.sent) < len(self.signals) and time.monotonic() - self.since >= self.waits[len(self.sent)]:
            self.processor_seconds = processor_seconds(process)
            os.kill(process, self.signals[len(self.sent)])
            self.since = time.monotonic()
            self.sent.append(self.since)


def processor_seconds(process):
    """Return the processor time that a process has taken so far."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stopped:
    """Stops a run again and again.

    Args:
        root: Folder to work in.
    """

    def __init__(self, root):
        data = point_data(12)
        write_store(root / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
        evaluated = ["--evaluation.env_id", POINT, "--evaluation.num_episodes", "1", "--evaluation.every", "12"]
        words = ["train", "gym", "--data", f"rlt:{root / 'store'}", *SMALL, *evaluated, "--train-steps", str(STEPS)]
        self.words = [*words, "--checkpoint-every", str(EVERY), "--output", str(root / "out/run")]
        self.out = root / "out"
        self.output = root / "output.txt"
        self.most_milliseconds = 0
        empty(self.out)
        whole = import_what_it_imports(lambda: main(self.words), self.output)
        assert whole.code == 0, whole.output
        self.expected = read_run(self.out / "run")

    def _run(self, *more, phase=None, call=1, tell=None, sender=None):
        def command():
            # Shells let processes in the background ignore them.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            if phase is not None:
                _announce(*PHASES[phase][:2], call, tell, slowly=phase == "evaluation")
            return main([*self.words, *more])

        if not more:
            empty(self.out)
        return run_forked(command, self.output, seconds=120, meanwhile=sender)

    def stop_in(self, phase, chance):
        """Send signals in one of its phases; return the outcome."""
        hear, tell = os.pipe()
        os.set_blocking(hear, False)
        sender = Sender(chance, hear, 0.02)
        call = chance.randint(1, PHASES[phase][2])
        try:
            ended = self._run(phase=phase, call=call, tell=tell, sender=sender)
        finally:
            os.close(hear)
            os.close(tell)
        return self._judge(ended, sender)

    def stop_at_start(self, chance, *, interpreter):
        """Send signals in the first moments of a copy of this process, or of an interpreter that still has to import all."""
        empty(self.out)
        sender = Sender(chance, None, 3.0 if interpreter else 0.05)
        if not interpreter:
            return self._judge(self._run(sender=sender), sender)
        began = time.monotonic()
        with self.output.open("w") as file:
            process = subprocess.Popen(
                # It knows the environment only by the module that registers it.
                [
                    sys.executable,
                    "-m",
                    "rl_transformer",
                    *(f"tests.toys:{word}" if word == POINT else word for word in self.words),
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
            )
        pid = 0
        while not pid and time.monotonic() < began + 120:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if not pid:
                sender(process.pid)
                time.sleep(0.001)
        if not pid:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        used = usage.ru_utime + usage.ru_stime
        ended = Ended(process.returncode, self.output.read_text(), time.monotonic() - began, used, 0.0, not pid)
        return self._judge(ended, sender, interpreter=True)

    def _judge(self, ended, sender, *, interpreter=False):
        now = time.monotonic()
        assert not ended.hangs, "hangs"
        # Before the first lines of this package run, it is Python that answers.
        ours = [
            line
            for line in ended.output.splitlines()
            if "rl_transformer/" in line and "rl_transformer/__init__" not in line
        ]
        assert "Traceback" not in ended.output or (interpreter and not ours), ended.output[-2000:]
        codes = {code for number in sender.signals[: len(sender.sent)] for code in (128 + number, -number)}
        # Before the run handles signals, and after it, they end it as they end any program: a shell says 128 + number, too.
        assert ended.code in {*codes, 0}, f"exit code {ended.code}: {ended.output[-300:]}"
        is_done = (self.out / "run/finished.json").exists()
        assert ended.code != 0 or is_done, "it went on to no end"
        if sender.sent:
            # How long it took beyond what the second signal allowed.
            limit = SOON if len(sender.sent) == 1 else AT_ONCE
            # An interpreter that ends while it imports has much to undo, which takes long where others compute, too.
            seconds = ended.cpu_seconds - sender.processor_seconds if interpreter else now - sender.sent[-1]
            self.most_milliseconds = max(self.most_milliseconds, round(1000 * seconds))
            assert seconds < limit, f"it took {seconds:.2f} s to end"
        if ended.code > 128 and len(sender.sent) == 1:
            self._check_saved()
        again = self._run("--resume")
        assert again.code == 0, f"the resumed run ends with {again.code}: {again.output[-300:]}"
        assert read_run(self.out / "run") == self.expected, "the resumed run is another one"
        assert not leftovers(self.out), f"leftovers: {leftovers(self.out)}"
        return "finished" if ended.code == 0 else "stopped"

    def _check_saved(self):
        run = self.out / "run"
        rows = [row["step"] for row in read_metrics(run) if "loss" in row] if (run / "metrics.jsonl").exists() else []
        newest = newest_verified(run / "checkpoints", report=False)
        assert not rows or int(newest.name[5:]) >= rows[-1], (
            f"step {rows[-1]} was made, and {newest} is the newest checkpoint"
        )


def _announce(owner, name, which, tell, *, slowly):
    """Say on a pipe when a function is called for the ``which``-th time; ``slowly``: that call takes two seconds."""
    genuine = getattr(owner, name)
    calls = []

    def announcing(*args, **options):
        calls.append(name)
        if len(calls) == which:
            os.write(tell, b"x")
            if slowly:
                time.sleep(STEP_SECONDS)
        return genuine(*args, **options)

    mock.patch.object(owner, name, announcing).start()


def attack(root, number, seed, only):
    """Stop runs ``number`` times, in every phase as often; return the counts by phase and what went wrong."""
    tally = Tally()
    stopped = Stopped(root)
    ways = {
        **{name: lambda chance, name=name: stopped.stop_in(name, chance) for name in PHASES},
        "first moments": lambda chance: stopped.stop_at_start(chance, interpreter=False),
        "imports": lambda chance: stopped.stop_at_start(chance, interpreter=True),
    }
    ways = {name: way for name, way in ways.items() if not only or name in only}
    for which in range(number):
        name = list(ways)[which % len(ways)]
        chance = random.Random(f"{seed} {which}")
        tally.judge(name, str(which), lambda n=name, c=chance: ways[n](c))
        counts = tally.parts[name]
        counts["most_milliseconds"] = max(counts.get("most_milliseconds", 0), stopped.most_milliseconds)
        stopped.most_milliseconds = 0
        if tally.is_enough:
            break
    tally.report("updates")
    return tally.parts, tally.wrong
