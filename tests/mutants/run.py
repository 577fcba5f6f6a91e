"""Plant faults into a copy of the code, one at a time, and see that the fast tests catch each of them.

    python tests/mutants/run.py [--only NAME] [--jobs N] [--json FILE]

The faults are in the .toml files beside this one. Exit code 0: every fault is caught. 1: one is not. 2: the table or
the tests are wrong, so that nothing can be said.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).parent
COPIED = ("src", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
SECONDS = 180  # far above what the named tests take
PRELOADED = ("torch", "safetensors.torch", "scipy.stats", "gymnasium", "h5py", "minari", "pyarrow", "jsonargparse")
KEYS = {"name", "what", "file", "old", "new", "tests"}

CAUGHT = "caught"
SURVIVED = "SURVIVED"  # without a fault: they pass
TIMEOUT = "timeout"
UNCLEAR = "UNCLEAR"


class TableError(Exception):
    """The table does not fit the code: its entries, or the tests that they name."""


@dataclass(frozen=True)
class Fault:
    """A fault to plant, and the tests that should catch it."""

    name: str
    what: str
    """What would go wrong, in a sentence."""
    file: str
    """The file to change, relative to the root."""
    old: str
    """Text that is in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """Test files, or ``FILE::NAME`` for one test."""
    timeout_catches: bool = False
    """A test that does not end counts as caught, because the fault lets the code wait for ever."""

    def planted(self, root: Path) -> str:
        """Return the text of the file with the fault.

        Raises:
            TableError: The old text is not in the file exactly once, or the result is no Python.
        """
        path = root / self.file
        if not path.is_file():
            raise TableError(f"{self.name}: there is no {self.file}")
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise TableError(f"{self.name}: the old text is {count} times in {self.file}, not once")
        changed = text.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
        except SyntaxError as error:
            raise TableError(f"{self.name}: with the new text, {self.file} is no Python: {error}") from None
        if same:
            raise TableError(f"{self.name}: the new text changes nothing")
        return changed


@dataclass(frozen=True)
class Result:
    """What the tests of one fault said."""

    verdict: str
    detail: str
    seconds: float


def read_tables(folder: Path = TABLES) -> list[Fault]:
    """Return the faults of all tables in a folder; raise a `TableError` for an entry that is not complete."""
    faults: list[Fault] = []
    for path in sorted(folder.glob("*.toml")):
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("fault", [])
        if not entries:
            raise TableError(f"{path.name} holds no fault")
        for entry in entries:
            if not KEYS <= set(entry) <= KEYS | {"timeout_catches"} or not entry["tests"]:
                raise TableError(f"{path.name}: {entry.get('name')!r} does not have exactly {sorted(KEYS)}")
            faults.append(Fault(**{**entry, "tests": tuple(entry["tests"])}))
    names = [fault.name for fault in faults]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"given twice: {', '.join(repeated)}")
    return faults


def check_faults(faults: Iterable[Fault], root: Path = ROOT) -> None:
    """Check that every fault can be planted and that its tests exist.

    Raises:
        TableError: The first one that is wrong.
    """
    for fault in faults:
        fault.planted(root)
        for test in fault.tests:
            name, _, function = test.partition("::")
            function = function.partition("[")[0]
            path = root / name
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if not text or (function and not re.search(rf"^def {function}\(", text, re.MULTILINE)):
                raise TableError(f"{fault.name}: there is no test {test}")


def copy_tree(target: Path) -> None:
    """Copy what the tests need; the checkout itself is never changed."""
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target / name)


class Run:
    """Tests of one copy of the tree that run in a process of their own."""

    def __init__(self, copy: Path, fault: Fault | None, tests: Sequence[str]) -> None:
        self.copy = copy
        self.fault = fault
        self.tests = tests
        self._began = time.monotonic()
        self._scratch = Path(tempfile.mkdtemp(dir=copy.parent))
        if fault is not None:
            self._path = copy / fault.file
            self._before = self._path.read_bytes()
            self._path.write_text(fault.planted(copy), encoding="utf-8")
        self._process = os.fork()
        if self._process == 0:
            self._run_pytest()

    def _run_pytest(self) -> NoReturn:
        """Become the process of the tests."""
        code = 3
        try:
            os.setsid()  # so that processes which the tests start end with them
            output = os.open(self._scratch / "output", os.O_WRONLY | os.O_CREAT, 0o600)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(self.copy)
            # The copy comes before an installed package, also in processes that the tests start.
            os.environ["PYTHONPATH"] = str(self.copy / "src")
            os.environ["TMPDIR"] = tempfile.tempdir = str(self._scratch)
            sys.path[:1] = [str(self.copy), str(self.copy / "src")]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--basetemp={self._scratch / 'tests'}"]
            code = int(pytest.main([*options, *self.tests]))
            loaded = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
            source = str(ROOT / "src")
            if not source.startswith(str(self.copy)) and any(path.startswith(source) for path in loaded):
                print("the checkout was imported instead of the copy")
                code = 3
        finally:
            sys.stdout.flush()
            os._exit(code)

    def result(self, seconds: float) -> Result | None:
        """Return what the tests said, after taking the fault out; None while they run."""
        ended, status = os.waitpid(self._process, os.WNOHANG)
        spent = time.monotonic() - self._began
        if not ended and spent < seconds:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        if not ended:
            os.waitpid(self._process, 0)
        output = (self._scratch / "output").read_text(encoding="utf-8", errors="replace")
        if self.fault is not None:
            self._path.write_bytes(self._before)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if ended:
            return Result(*_judge(os.waitstatus_to_exitcode(status), output), spent)
        if self.fault is not None and self.fault.timeout_catches:
            return Result(CAUGHT, "does not end, as expected", spent)
        return Result(TIMEOUT, f"after {seconds:g} s", spent)


def _judge(code: int, output: str) -> tuple[str, str]:
    """Return the verdict of a run of pytest, and a line about it."""
    if code == 0:
        return SURVIVED, "all tests pass"
    failed = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    # An error while tests are collected or set up says nothing: any fault that breaks an import would be "caught".
    if code == 1 and failed:
        return CAUGHT, failed[1]
    return UNCLEAR, f"pytest ended with {code}:\n{output[-3000:]}"


def run_each(
    items: Sequence[tuple[Fault | None, tuple[str, ...]]], copies: Iterable[Path]
) -> Iterator[tuple[int, Result]]:
    """Run tests with and without faults, one in each copy at a time; yield number and result of each as it ends."""
    waiting = list(enumerate(items))[::-1]
    free = list(copies)
    running: dict[int, Run] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, (fault, tests) = waiting.pop()
                running[number] = Run(free.pop(), fault, tests)
            for number, run in list(running.items()):
                result = run.result(SECONDS)
                if result is not None:
                    del running[number]
                    free.append(run.copy)
                    yield number, result
            time.sleep(0.02)
    finally:
        for run in running.values():
            run.result(0)


def select_control(faults: Iterable[Fault]) -> list[tuple[str, ...]]:
    """Return all tests of the faults, those of each file together."""
    tests = sorted({test for fault in faults for test in fault.tests})
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    return [(file,) if file in chosen else tuple(chosen) for file, chosen in files.items()]


def run_all(faults: Sequence[Fault], jobs: int) -> dict[str, Result]:
    """Run the control and every fault, and print a line for each; raise a `TableError` if the control fails."""
    check_faults(faults)
    # Imported once: every process of tests begins as a copy of this one. Not the package, of course.
    for name in PRELOADED:
        with suppress(ImportError):
            import_module(name)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        copies = [Path(temporary).resolve() / f"copy-{number}" for number in range(jobs)]
        for copy in copies:
            copy_tree(copy)
        control = select_control(faults)
        print(f"control: the same tests, from {len(control)} files, without a fault", flush=True)
        for number, result in run_each([(None, tests) for tests in control], copies):
            if result.verdict != SURVIVED:
                raise TableError(f"without a fault, {' '.join(control[number])}: {result.detail}")
        for number, result in run_each([(fault, fault.tests) for fault in faults], copies):
            results[faults[number].name] = result
            print(f"{result.verdict:8} {faults[number].name} ({result.seconds:.0f} s): {result.detail}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="plant this fault only; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="faults at the same time (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts into this file, too")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    # No compiled file is written: its time stamp could be that of the next fault, which would then not be there.
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    try:
        faults = read_tables()
        unknown = sorted(set(options.only or ()) - {fault.name for fault in faults})
        if unknown:
            raise TableError(f"no fault is called {', '.join(unknown)}; see tests/mutants/*.toml")
        chosen = [fault for fault in faults if not options.only or fault.name in options.only]
        results = run_all(chosen, max(1, options.jobs))
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    caught = sum(result.verdict == CAUGHT for result in results.values())
    seconds = round(time.monotonic() - began)
    print(f"{caught} of {len(results)} faults caught in {seconds} s")
    if options.json:
        others = {name: result.verdict for name, result in results.items() if result.verdict != CAUGHT}
        report = {"faults": len(results), "caught": caught, "others": others, "seconds": seconds}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
