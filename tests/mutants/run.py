"""Plant faults into a copy of the code, one at a time, and see that the fast tests catch each of them.

    python tests/mutants/run.py [--only NAME] [--jobs N]

The faults are in the .toml files beside this one. Exit code 0: every fault is caught. 1: one is not. 2: the table or
the tests are wrong, so that nothing can be said.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).parent
COPIED = ("src", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
SECONDS = 180  # far above what the named tests take
KEYS = {"name", "what", "file", "old", "new", "tests"}

CAUGHT = "caught"
SURVIVED = "SURVIVED"
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
    """Return the faults of all tables in a folder.

    Raises:
        TableError: A table is empty, or an entry lacks something, has something unknown, or a name of another one.
    """
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


def copy_tree(target: Path, root: Path = ROOT) -> None:
    """Copy what the tests need; the checkout itself is never changed."""
    target.mkdir()
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target / name)


def run_tests(copy: Path, tests: Sequence[str], seconds: float = SECONDS) -> Result:
    """Run tests of a copy of the tree in a process of their own."""
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(dir=copy.parent))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    # The copy comes before an installed package. No compiled file is written: its time stamp could be that of the next
    # fault, which would then not be there.
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(scratch),
    }
    process = subprocess.Popen(
        [*command, f"--basetemp={scratch / 'tests'}", *tests],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that processes which the tests have started end with them
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        verdict, detail = _judge(process.returncode, output)
    except subprocess.TimeoutExpired:
        verdict, detail = TIMEOUT, f"after {seconds:g} s"
    finally:
        _kill_group(process)
        shutil.rmtree(scratch, ignore_errors=True)
    return Result(verdict, detail, time.monotonic() - began)


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _judge(code: int, output: str) -> tuple[str, str]:
    """Return the verdict of a run of pytest, and a line about it."""
    if code == 0:
        return SURVIVED, "all tests pass"
    failed = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    # An error while tests are collected or set up says nothing: any fault that breaks an import would be "caught".
    if code == 1 and failed:
        return CAUGHT, failed[1]
    return UNCLEAR, f"pytest ended with {code}:\n{output[-3000:]}"


def check_imports(copy: Path) -> None:
    """Check that Python imports the package from the copy, and not the one that is installed.

    Raises:
        TableError: It does not.
    """
    for folder in sorted((copy / "src").iterdir()):
        code = f"import {folder.name}; print({folder.name}.__file__)"
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        if not done.stdout.startswith(str(copy)):
            raise TableError(f"{folder.name} is not imported from the copy: {done.stdout}{done.stderr}")


def run_fault(copy: Path, fault: Fault, seconds: float = SECONDS) -> Result:
    """Plant a fault in a copy, run its tests, and take it out again."""
    path = copy / fault.file
    before = path.read_bytes()
    path.write_text(fault.planted(copy), encoding="utf-8")
    try:
        result = run_tests(copy, fault.tests, seconds)
    finally:
        path.write_bytes(before)
    if result.verdict == TIMEOUT and fault.timeout_catches:
        return Result(CAUGHT, f"{TIMEOUT} {result.detail}, as expected", result.seconds)
    return result


def run_all(
    faults: Sequence[Fault], *, root: Path = ROOT, jobs: int = 1, seconds: float = SECONDS
) -> dict[str, Result]:
    """Run the control and every fault, and print a line for each.

    Raises:
        TableError: The table or the control is wrong.
    """
    check_faults(faults, root)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy_tree(Path(temporary).resolve() / f"copy-{number}", root)
            copies.put(Path(temporary).resolve() / f"copy-{number}")
        first = Path(temporary).resolve() / "copy-0"
        check_imports(first)

        def in_a_copy(work, item):
            copy = copies.get()
            try:
                return work(copy, item)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            selections = sorted({fault.tests for fault in faults})
            print(f"control: {len(selections)} selections of tests without a fault", flush=True)
            controls = [pool.submit(in_a_copy, run_tests, selection) for selection in selections]
            for selection, control in zip(selections, controls, strict=True):
                if control.result().verdict != SURVIVED:
                    pool.shutdown(cancel_futures=True)
                    raise TableError(f"without a fault, {' '.join(selection)}: {control.result().detail}")
            waiting = [pool.submit(in_a_copy, lambda copy, fault: run_fault(copy, fault, seconds), f) for f in faults]
            for fault, future in zip(faults, waiting, strict=True):
                result = results[fault.name] = future.result()
                print(f"{result.verdict:8} {fault.name} ({result.seconds:.0f} s): {result.detail}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="plant this fault only; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="faults at the same time (default: 1)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        faults = read_tables()
        unknown = sorted(set(options.only or ()) - {fault.name for fault in faults})
        if unknown:
            raise TableError(f"no fault is called {', '.join(unknown)}; see tests/mutants/*.toml")
        chosen = [fault for fault in faults if not options.only or fault.name in options.only]
        results = run_all(chosen, jobs=max(1, options.jobs))
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    caught = sum(result.verdict == CAUGHT for result in results.values())
    print(f"{caught} of {len(results)} faults caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
