"""Kills commands that write, or lets one of their operations on the disk fail, and looks at what is left and what a repetition gives."""

import os
import random
import re
import signal
from pathlib import Path

from rl_transformer.cli.main import main
from rl_transformer.runtime import disk
from tests.misfortune.commands import empty, leftovers, words_of
from tests.misfortune.forked import import_what_it_imports, run_forked
from tests.runtime.faulty_disk import WAYS, FaultyDisk, Killed

# Of every hundred kills. An export takes seconds; the other commands tenths of one.
SHARES = {
    "train": 16, "train, evaluated": 8, "convert a store": 14, "convert a CSV file": 8, "convert Parquet files": 8, "collect": 14,
    "collect by a policy": 8, "evaluate": 5, "sweep": 9, "pretrain": 5, "plot": 4, "export": 1,
}  # fmt: skip


class DeadlyDisk(FaultyDisk):
    """A disk on which one operation fails, or at which the process is killed, really and with its workers."""

    def _do(self, name, *args):
        try:
            return super()._do(name, *args)
        except Killed:
            os.killpg(os.getpgid(0), signal.SIGKILL)


class Victim:
    """A command that is killed again and again.

    Args:
        name: Its name.
        writer: The command.
        root: Folder to work in.
    """

    def __init__(self, name, writer, root):
        self.name = name
        self.writer = writer
        self.out = root / "out"
        self.output = root / "output.txt"
        self.counts = {"cases": 0, "killed": 0, "refused": 0, "went on": 0, "tracebacks": 0, "hangs": 0, "crashes": 0}
        self.wrong = []
        import_what_it_imports(lambda: main(words_of(writer, empty(self.out))), self.output)
        whole = self._run(None, "")
        assert whole.code == 0, whole.output
        self.expected = self._read()
        self.duration = whole.seconds
        self.operations = [line.split()[1] for line in whole.output.splitlines() if line.startswith("operation ")]

    def _run(self, fails_at, way, *, again=False, kill_after=None):
        if not again:
            empty(self.out)
        words = words_of(self.writer, self.out, again=again)

        def command():
            disk.DISK = DeadlyDisk(fails_at, way)
            code = main(words)
            if fails_at is None and kill_after is None:
                for name, _ in disk.DISK.calls:
                    print("operation", name)
            return code

        return run_forked(command, self.output, kill_after=kill_after, seconds=120)

    def _read(self):
        return self.writer.read(self.out / self.writer.written)

    def kill_at_a_random_time(self, chance):
        """Kill it at a random time; return False if it had ended before."""
        ended = self._run(None, "", kill_after=chance.uniform(0, self.duration), again=False)
        if ended.code != -signal.SIGKILL:
            self.duration = max(0.02, 0.9 * self.duration)  # the machine is less busy than it was
            return False
        self._look(f"killed after {ended.seconds:.3f} s", ended)
        return True

    def fail(self, number, way):
        """Let one operation fail in one way."""
        ended = self._run(number, way)
        self._look(f"operation {number} ({self.operations[number]}) {way}", ended)
        return ended.code == -signal.SIGKILL

    def _look(self, what, ended):
        self.counts["cases"] += 1
        try:
            self._judge(ended)
        except Exception as error:  # what cannot be read is wrong, too
            self.wrong.append(f"{self.name}: {what}: {type(error).__name__}: {error}"[:600])

    def _judge(self, ended):
        if ended.code == -signal.SIGKILL and not ended.hangs:
            self.counts["killed"] += 1
        elif ended.wrong:
            kind = "hangs" if ended.hangs else "crashes" if ended.code < 0 else "tracebacks"
            self.counts[kind] += 1
            raise AssertionError(ended.wrong)
        elif ended.code == 0:  # what failed was not needed, such as a cache
            self.counts["went on"] += 1
            assert self._read() == self.expected, "another result, without a word"
        else:
            self.counts["refused"] += 1
            assert "error: " in ended.output, "an exit code without a message"
            assert "fix: " in ended.output, "an error without advice"
        self._repeat()

    def _repeat(self):
        path = self.out / self.writer.written
        if self.writer.is_whole_or_absent and path.exists():
            assert self._read() == self.expected, "a part of a result has its name"
            return  # and a repetition would not replace it
        before = newest_checkpoint(path)
        ended = self._run(None, "", again=True)
        assert ended.code == 0, f"the repetition ends with {ended.code}: {ended.output[-300:]}"
        resumed = re.search(r"resumed from step (\d+)", ended.output)
        lost = f"step {before} was saved, and the repetition began at {resumed and resumed[1]}"
        assert self.name == "sweep" or before == int(resumed[1] if resumed else 0) or "finished" in ended.output, lost
        assert self._read() == self.expected, "the repetition gives another result"
        assert not leftovers(self.out), f"leftovers: {leftovers(self.out)}"


def newest_checkpoint(path: Path):
    """Return the step of the newest checkpoint with a manifest; 0: there is none."""
    complete = (path / "checkpoints").glob("step-*/manifest.json")
    return max((int(manifest.parent.name[5:]) for manifest in complete), default=0)


def kill_many(victim, number, seed):
    """Kill a command ``number`` times, every second time at one of its operations on the disk."""
    chance = random.Random(f"{seed} {victim.name}")
    while victim.counts["killed"] < number and len(victim.wrong) < 20:
        if not victim.operations or chance.random() < 0.5:
            victim.kill_at_a_random_time(chance)
        else:
            way = chance.choice([way for way in WAYS if way.startswith("killed")])
            victim.fail(chance.randrange(len(victim.operations)), way)


def fail_everywhere(victim, most, seed):
    """Let each operation of a command fail in each way; if those are more than ``most``, a random part of them."""
    every = [(number, way) for number in range(len(victim.operations)) for way in WAYS]
    chosen = every if len(every) <= most else sorted(random.Random(seed).sample(every, most))
    for number, way in chosen:
        victim.fail(number, way)
    return len(every)
