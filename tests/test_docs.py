"""Claims about the documentation: its blocks run, its paths exist, and its reference pages are complete."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from rl_transformer.cli.main import main
from rl_transformer.config import RunConfig
from rl_transformer.language.config import KINDS
from rl_transformer.reproductions import reproduction
from rl_transformer.run import train
from tests.toys import TOLL, tiny_config, toll_data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"# not run here: (.+)")
RUN, REASONED = 33, 29  # a block that is added or lost must be noticed here


def blocks():
    """Every code block that a reader may copy: (page, number, language, code, reason it is not run)."""
    for page in PAGES:
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
            if language in ("python", "bash", "sh", "yaml", "json"):
                reason = LEFT_OUT.match(code.splitlines()[0])
                yield page.relative_to(ROOT).as_posix(), number, language, code, reason and reason[1]


ALL = list(blocks())


def test_the_number_of_blocks_that_run_is_known_and_the_others_say_why():
    assert len([b for b in ALL if not b[4]]) == RUN
    left_out = [b[4] for b in ALL if b[4]]
    assert len(left_out) == REASONED
    assert all(len(reason.split()) >= 4 for reason in left_out)


def run_block(block, folder, commands):
    """Run a block in a folder; `rlt` and `python` are those of the folder of commands."""
    _, _, language, code, _ = block
    assert language in ("python", "bash")
    command = [commands / "python", "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


BLOCKS_THAT_RUN = [b for b in ALL if not b[4]]
REPRODUCING = [b for b in BLOCKS_THAT_RUN if "rlt reproduce" in b[3]]  # a minute each, also at the quick size
REAL_LOGS = [b for b in ALL if b[4] and "the slow tests run it" in b[4]]


def name_block(block):
    return f"{block[0]}-{block[1]}"


@pytest.mark.parametrize("block", [b for b in BLOCKS_THAT_RUN if b not in REPRODUCING], ids=name_block)
def test_a_block_runs_as_it_stands(block, tmp_path, warm_commands):
    run_block(block, tmp_path, warm_commands)


@pytest.mark.parametrize("block", REPRODUCING, ids=name_block)
def test_a_block_that_reproduces_names_an_experiment_and_its_options(block, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduction, "reproduce", lambda experiment, setup, **_: started.append(experiment.name) or {})
    for line in block[3].splitlines():
        name, *words = shlex.split(line, comments=True)
        assert name == "rlt"
        assert main(words) == 0
        assert started[-1] == words[1]
    assert len(started) == len(block[3].splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS_THAT_RUN, ids=name_block)
def test_a_block_runs_in_interpreters_of_its_own(block, tmp_path):
    run_block(block, tmp_path, Path(sys.executable).parent)


@pytest.mark.parametrize("block", REAL_LOGS, ids=name_block)
def test_a_real_log_ends_with_a_word_in_ten_commands(block):
    commands = [line for line in block[3].splitlines() if re.match(r"(pip|python|rlt) ", line)]
    assert len(commands) <= 10
    assert commands[-1].startswith("rlt judge ")


@pytest.mark.slow
@pytest.mark.parametrize("block", REAL_LOGS, ids=name_block)
def test_a_real_log_becomes_a_policy(block, tmp_path):
    assert len(REAL_LOGS) == 4
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = run_block(block, tmp_path, Path(sys.executable).parent).splitlines()
    # The page shows the lines themselves, after the commands: the word, its reasons, and what the behavior earned.
    after = (ROOT / block[0]).read_text().split(block[3])[1]
    shown = re.search(r"^```text\n(NOT ESTABLISHED.*?)^```", after, re.MULTILINE | re.DOTALL)
    assert shown is not None
    told = [line for line in shown[1].splitlines() if line.startswith(("NOT ESTABLISHED", "behavior:"))]
    assert len(told) == 2
    assert set(told) <= set(printed)


def test_every_path_that_is_named_exists():
    named = []
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        named += [(page, page.parent / target) for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    assert len(named) > 100
    assert not [(page.name, str(target)) for page, target in named if not target.exists()]


def test_every_option_that_a_page_names_exists():
    """Written as `--section.field`; the change log also names old ones."""
    known: dict[str, set[str]] = {}
    for config in (RunConfig(), *(make() for make in KINDS.values())):
        for section in fields(config):
            value = getattr(config, section.name)
            if is_dataclass(value):
                known.setdefault(section.name, set()).update(field.name for field in fields(value))
    written = re.compile(rf"--({'|'.join(known)})\.([a-z_]+)\b")
    named = {
        (page.relative_to(ROOT).as_posix(), *option)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for option in written.findall(page.read_text())
    }
    assert len(named) > 50
    assert not {option for option in named if option[2] not in known[option[1]]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_uses_the_words_of_the_field(page):
    """Words of the first version that a reader from the field would have to look up."""
    text = BLOCK.sub("", page.read_text()).replace("`policy.target asked`", "")
    words = r"\b(?:rivals?|mend(?:ed)?|step sizes?|poison|asked for|told|streaming attention|text beside)\b"
    assert not re.findall(words, text)


# Pitfalls


def traps_page():
    return (ROOT / "docs/traps.md").read_text()


def test_every_guarding_test_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", traps_page())
    assert len(named) > 60
    missing = [
        (file, name)
        for file, name in named
        if not (ROOT / "tests" / file).exists() or f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert not missing


def test_every_pitfall_names_a_guarding_test():
    rows = [line for line in traps_page().splitlines() if re.match(r"\| (?:T-\d|- )", line)]
    assert rows
    assert all("::test_" in row for row in rows)
    assert f"[{len(rows)} known pitfalls](docs/traps.md)" in (ROOT / "README.md").read_text()


def test_every_numbered_pitfall_is_on_the_page():
    numbers = {int(n) for group in re.findall(r"T-(\d\d(?:, \d\d)*)", traps_page()) for n in group.split(", ")}
    assert numbers == set(range(1, 38))


def test_every_test_that_a_page_names_exists():
    for page in PAGES:
        for file, name in re.findall(r"`tests/([\w/]+\.py)(?:::(test_\w+))?`", page.read_text()):
            assert (ROOT / "tests" / file).exists(), (page, file)
            assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text(), (page, name)


# Reference pages


def test_the_page_of_options_is_what_the_command_prints(capsys):
    assert main(["options", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs/reference/options.md").read_text()


def documented_fields():
    """Return the field names of every table of the metrics page, by the heading or line above it."""
    fields = {}
    title = ""
    for line in (ROOT / "docs/reference/metrics.md").read_text().splitlines():
        if line.startswith("## ") or line.startswith("Each entry"):
            title = line.strip("# :")
            fields[title] = set()
        elif line.startswith("| `"):
            fields[title] |= {re.sub(r"_at_X$", "_at_", name) for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    return fields


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny run whose files hold every field: held-out episodes, targets, a cost."""
    folder = tmp_path_factory.mktemp("metrics") / "run"
    evaluation = {"env_id": TOLL, "target_returns": [4.0], "targets": {"cost_to_go": 90.0}, "num_episodes": 2}
    config = tiny_config(
        folder,
        dataset={"validation_fraction": 0.2},
        model={"conditions": ["return_to_go", "cost_to_go"]},
        training={"train_steps": 2, "checkpoint_every": 1},
        evaluation=evaluation,
    )
    return train(config, dataset=toll_data())


def test_every_field_of_a_runs_files_is_documented_and_every_documented_one_is_there(run):
    pages = documented_fields()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    written = {re.sub(r"_at_4$", "_at_", name) for row in rows for name in row}
    assert written == pages["metrics.jsonl"]
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    assert {name for row in timing for name in row} == pages["timing.jsonl"]
    assert set(json.loads((run / "run.json").read_text())) == pages["run.json"]
    report = json.loads((run / "report.json").read_text())
    assert set(report) == pages["report.json"]
    assert set(report["targets"][0]) == pages["Each entry of `targets`"]
    assert set(report["while_training"]["return_at_4"]) == pages["Each entry of `while_training`"]


def test_every_field_that_the_commands_write_is_documented(run, tmp_path):
    pages = documented_fields()
    evaluated = str(tmp_path / "evaluated.json")
    command = ["evaluate", str(run), "--env-id", TOLL, "--target-return", "4", "--target", "cost_to_go=90"]
    assert main([*command, "--num-episodes", "2", "--json", evaluated]) == 0
    report = json.loads(Path(evaluated).read_text())
    assert set(report) == pages["report.json"] - {"while_training", "target_advice"}
    assert set(report["targets"][0]) == pages["Each entry of `targets`"]
    assert main(["collect", "rl_transformer/KeyToDoor-v0", "--output", str(tmp_path / "w"), "--num-episodes", "4"]) == 0
    trained = str(tmp_path / "trained.json")
    command = ["train", "key-to-door", "--data", f"rlt:{tmp_path / 'w'}", "--output", str(tmp_path / "run")]
    assert main([*command, "--train-steps", "1", "--training.warmup_steps", "0", "--json", trained]) == 0
    assert set(json.loads(Path(trained).read_text())) == pages["rlt train --json"]
