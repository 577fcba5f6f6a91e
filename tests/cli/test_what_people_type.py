"""Claims about what people type: it is understood, or the message names what they meant."""

import json
import os
import subprocess
import sys

import pytest

from rl_transformer import RLTransformerError, RunConfig, import_huggingface, load_policy, preset
from rl_transformer.cli.command import parse_seeds
from rl_transformer.cli.main import COMMANDS, main
from rl_transformer.runtime import machine
from tests.cli.conftest import QUICK
from tests.toys import POINT


def refused(capsys, *words):
    assert main(list(words)) == 2, words
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "did you mean train"),
        (["train", "fst"], "did you mean fast"),
        (["train", "fast", "--training.lerning_rate", "1"], "did you mean --training.learning_rate"),
        (["train", "fast", "--seeed", "1"], "did you mean --seed"),
        (["train", "fast", "--training.schedule", "cosin"], "did you mean cosine"),
        (["train", "fast", "--training.schedule=cosin"], "did you mean cosine"),
        (["train", "fast", "--training.device", "gpu"], "did you mean cuda"),
        (["train", "fast", "--training.device", "mps"], "use cpu, cuda or cuda:N"),
        (["train", "fast", "--model.action_head", "gausian"], "did you mean gaussian"),
        (["evaluat", "x"], "did you mean evaluate"),
    ],
    ids=" ".join,
)
def test_a_misspelled_word_is_answered_with_the_nearest_one(words, meant, ready, tmp_path, capsys):
    rest = ["--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "out")] if words[0] == "train" else []
    assert meant in refused(capsys, *words, *rest)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--training.batch_size", "many"], "--training.batch_size: 'many' is not of type int"),
        (["--train-steps=1.5"], "--train-steps: '1.5' is not of type int"),
        (["--model.n_inner", "x"], "--model.n_inner: 'x' is not of type int | null"),
        (["--training.tensorboard", "maybe"], "--training.tensorboard: 'maybe' is not of type bool"),
    ],
    ids=str,
)
def test_a_value_of_a_wrong_type_is_named_with_its_option_and_type(words, problem, ready, tmp_path, capsys):
    rest = ["--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "out")]
    error = refused(capsys, "train", "gym", *rest, *words)
    assert problem in error
    assert "Union" not in error


SEEDS = {"5": [0, 1, 2, 3, 4], "0..4": [0, 1, 2, 3, 4], "0,2,7": [0, 2, 7], "1..2,7": [1, 2, 7], "3..3": [3]}


@pytest.mark.parametrize("text", SEEDS)
def test_seeds_are_a_count_a_range_or_a_list(text):
    assert parse_seeds(text) == SEEDS[text]


@pytest.mark.parametrize("text", ["", "0", "3..1", "1,1", "x", "1..", "-1", "1..99999999", "2.5"])
def test_seeds_that_name_nothing_are_refused_with_the_three_forms(text):
    with pytest.raises(RLTransformerError) as error:
        parse_seeds(text)
    for form in ("(5)", "(0..4)", "(0,2,7)"):
        assert form in error.value.fix


def test_a_count_of_seeds_trains_that_many_runs(ready, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(out), *QUICK, "--seeds"]
    assert main([*words, "2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["seed-0", "seed-1"]
    assert main([*words, "0..1", "--resume"]) == 0  # the same seeds
    assert "give 1" not in refused(capsys, "reproduce", "graph", "--quick", "--seeds", "0,2")


def test_a_warm_up_longer_than_the_run_is_noted(ready, tmp_path, capsys):
    words = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "out"), *QUICK]
    assert main(words) == 0
    assert "the warm-up of 10000 updates is as long as the run or longer" in capsys.readouterr().out
    assert main([*words[:-1], "1", "--output", str(tmp_path / "o2"), "--training.warmup_steps", "2"]) == 0
    assert "warm-up" not in capsys.readouterr().out


def test_version_and_doctor_describe_the_installation(tmp_path, capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rl_transformer 0.")
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    text = capsys.readouterr().out
    described = json.loads((tmp_path / "d.json").read_text())
    assert described["versions"]["torch"] in text
    assert described["environments"]["CartPole-v1"] == "ok"
    assert described["environments"]["rl_transformer/KeyToDoor-v0"] == "ok"
    assert described["extras"]["lm"] == "installed"
    assert described["device"]["threads"] >= 1
    assert main(["--version", "--verbose"]) == 0
    assert "extras" in capsys.readouterr().out


def test_a_configuration_shows_what_differs_from_its_preset():
    config = preset("fast")
    config.training.train_steps = 3
    assert repr(config) == "RunConfig(preset='fast', training.train_steps=3)"
    assert repr(RunConfig()) == "RunConfig()"


def test_training_says_when_it_waits_for_cores(monkeypatch):
    """With default threads on a busy machine an update took 20 times as long as with one thread, and nothing said so."""
    clock = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(machine.time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(machine.time, "thread_time", lambda: clock["cpu"])
    idle, busy, single = machine.CoreMonitor(2), machine.CoreMonitor(2), machine.CoreMonitor(1)
    clock.update(wall=5.0, cpu=0.5)
    assert busy.note() is None  # too early
    clock.update(wall=20.0, cpu=6.0)
    assert "--training.threads 1" in busy.note()
    assert busy.note() is None  # once
    assert single.note() is None
    clock.update(cpu=19.0)
    assert idle.note() is None


def run_rlt(words, **environment):
    command = [sys.executable, "-m", "rl_transformer", *words]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow)])
def test_a_narrow_encoding_shows_escapes_and_no_traceback(encoding):
    """Reported for B2_CLI#1071: a terminal's encoding ended the program."""
    done = run_rlt(["inspect", "rlt:/tmp/nowhere-день"], PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"\\u0434" in done.stderr


@pytest.mark.parametrize(
    "words", [["options"], ["--help"], ["train", "--help-all"], ["options", "--markdown"]], ids=" ".join
)
def test_a_reader_that_ends_early_is_no_error(words):
    """`rlt inspect ... | head -1` ended in a BrokenPipeError."""
    command = [sys.executable, "-m", "rl_transformer", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()  # before anything is written
        error = program.stderr.read()
    assert program.returncode == 0
    assert error == b""


def test_every_command_has_a_help_that_names_its_arguments(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code in (0, None)
        assert "--json" in capsys.readouterr().out


def test_a_model_of_transformers_becomes_a_policy_that_acts_as_it_and_can_be_evaluated(tmp_path, capsys):
    """Its users needed fourteen lines over five internal modules."""
    import numpy as np
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"state_dim": 2, "act_dim": 1, "hidden_size": 16, "n_layer": 1, "n_head": 1, "max_ep_len": 20}
    theirs = transformers.DecisionTransformerModel(transformers.DecisionTransformerConfig(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "hf")
    words = ["import-hf", str(tmp_path / "hf"), "--output", str(tmp_path / "run"), "--scale", "10"]
    (tmp_path / "std.json").write_text("[2.0, 0.25]")
    assert main([*words, "--mean", "-1e-1", "0.5", "--std", str(tmp_path / "std.json"), "--context-length", "4"]) == 0
    policy = load_policy(tmp_path / "run")
    session = policy.session(target_return=6.0)
    generator = np.random.default_rng(0)
    states, actions, rtg, rewards = [], [], [6.0], []
    for step in range(9):
        observation = generator.normal(size=2).astype(np.float32)
        states.append((observation - [-0.1, 0.5]) / [2.0, 0.25])
        window = slice(max(0, step - 3), step + 1)
        acted = [*actions, [0.0]][window]  # the last one is not read
        with torch.no_grad():
            expected = (
                theirs(
                    states=torch.tensor(np.array(states[window])[None], dtype=torch.float32),
                    actions=torch.tensor(np.array(acted)[None], dtype=torch.float32),
                    rewards=torch.zeros(1, len(acted), 1),
                    returns_to_go=torch.tensor(np.array(rtg[window])[None, :, None] / 10, dtype=torch.float32),
                    timesteps=torch.arange(step + 1)[None][:, window],
                    attention_mask=torch.ones(1, len(acted)),
                )
                .action_preds[0, -1]
                .numpy()
            )
        action = session.act(observation)
        np.testing.assert_allclose(action, expected, atol=1e-5)
        rewards.append(float(generator.normal()))
        session.observe(rewards[-1])
        actions.append(action.tolist())
        rtg.append(rtg[-1] - rewards[-1])
    score = ["evaluate", str(tmp_path / "run"), "--env-id", POINT, "--num-episodes", "2", "--target-return", "6"]
    assert main(score) == 0
    for option, value in (("--mean", ["1"]), ("--std", ["0", "1"]), ("--std", ["x", "1"])):
        wrong = {"--mean": ["0", "0"], "--std": ["1", "1"], option: value}
        again = [*words, "--output", str(tmp_path / "other")]
        assert "fix:" in refused(capsys, *again, *(word for name, given in wrong.items() for word in (name, *given)))
    assert import_huggingface(tmp_path / "hf", mean=[0, 0], std=[1, 1], scale=1).spec.context_length == 20


# Each stream full and closed, once; the slow tests spoil one stream at a time.
SPOILED = [">/dev/full 2>&-", ">&- 2>/dev/full"]
SPOILED += [pytest.param(one, marks=pytest.mark.slow) for one in (">/dev/full", ">&-", "2>/dev/full", "2>&-")]


@pytest.mark.parametrize("redirect", SPOILED)
def test_a_stream_that_cannot_be_written_ends_neither_training_nor_an_evaluation(redirect, ready, tmp_path):
    """Training died at its first progress line where standard error was full or closed, and a result was not written."""
    run = tmp_path / "run"
    commands = [
        ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(run), *QUICK],
        ["inspect", f"rlt:{ready / 'store'}", "--json", str(tmp_path / "i.json")],
        ["evaluate", str(ready / "run"), "--env-id", "CartPole-v1", "--json", str(tmp_path / "r.json")],
    ]
    program = tmp_path / "program.py"  # one process, because an interpreter takes longer to start than they run
    program.write_text(f"""
import sys
from rl_transformer.cli.main import entry
codes = []
for words in {commands!r}:
    sys.argv[1:] = words
    try:
        entry()
    except SystemExit as end:
        codes.append(str(end.code))
open({str(tmp_path / "codes")!r}, "w").write(" ".join(codes))
""")
    assert subprocess.run(f"{sys.executable} {program} {redirect}", shell=True, check=False).returncode == 0
    assert (tmp_path / "codes").read_text() == "0 0 2"  # another environment than the run's: that code remains
    assert (run / "policy/policy.json").exists()
    assert json.loads((tmp_path / "i.json").read_text())["num_trajectories"] == 40


def test_options_in_a_file_may_be_written_as_on_the_command_line(ready, tmp_path, capsys):
    rest = ["--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "out"), *QUICK[2:]]
    (tmp_path / "dotted.yaml").write_text("training.train_steps: 3\nmodel: {n_inner: 5}\nmodel.n_head: 2\n")
    assert main(["train", "gym", "--config", str(tmp_path / "dotted.yaml"), *rest]) == 0
    stored = json.loads((tmp_path / "out/config.json").read_text())
    assert (stored["training"]["train_steps"], stored["model"]["n_inner"], stored["model"]["n_head"]) == (3, 5, 2)
    for text, answer in {
        "train_steps: 3": "did you mean training.train_steps",
        "training.seed: 3\ntraining: {seed: 4}": "sets training.seed twice",
    }.items():
        (tmp_path / "wrong.yaml").write_text(text)
        assert answer in refused(capsys, "train", "gym", "--config", str(tmp_path / "wrong.yaml"), *rest)
    assert "is a folder" in refused(capsys, "train", "gym", "--config", str(tmp_path), *rest)


def test_an_option_at_the_wrong_place_is_answered_with_the_right_one():
    with pytest.raises(RLTransformerError) as error:
        RunConfig().seed = 3
    assert "did you mean training.seed" in error.value.fix
