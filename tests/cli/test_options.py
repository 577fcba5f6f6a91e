"""Claims about options on the command line: short help, all options, and what a misspelling is answered with."""

import json

import pytest

from rl_transformer import __version__
from rl_transformer.cli.main import COMMANDS, main
from rl_transformer.cli.train import FLAGS
from rl_transformer.config import PRESETS, RunConfig, preset


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def all_options():
    return [name for name, _, _ in RunConfig().options()]


@pytest.mark.parametrize("name", PRESETS)
def test_the_help_of_a_preset_is_short_and_shows_what_people_change_with_its_defaults(name, capsys):
    text = help_of(capsys, "train", name, "--help")
    lines = text.splitlines()
    assert len(lines) <= 80
    assert len(lines[0]) < 80  # the usage line does not list the options
    shown = [option for option in all_options() if f"--{option} " in text or f"--{option}\n" in text]
    assert 18 <= len(shown) <= 26
    assert f"Gradient updates. [{preset(name).training.train_steps}]" in text
    assert {"--data", "--output", "--train-steps", "--seed", "--resume", "--config"} <= set(
        text.replace(",", " ").split()
    )


def test_help_all_shows_every_option(capsys):
    text = help_of(capsys, "train", "fast", "--help-all")
    assert len(all_options()) > 70
    assert not [option for option in all_options() if f"--{option} " not in text and f"--{option}\n" not in text]


def test_rlt_options_lists_type_default_bounds_and_help_of_every_option(tmp_path, capsys):
    assert main(["options", "--json", str(tmp_path / "o.json")]) == 0
    rows = {row["option"]: row for row in json.loads((tmp_path / "o.json").read_text())}
    assert list(rows) == all_options()
    assert rows["training.learning_rate"]["bounds"] == "above 0"
    assert rows["training.learning_rate"]["presets"]["fast"] == 1e-3
    assert rows["model.attention"]["type"] == "full | sliding_window"
    assert all(row["help"].endswith(".") and len(row["help"]) < 200 for row in rows.values())
    printed = capsys.readouterr().out
    assert all(option in printed for option in rows)


def test_every_short_flag_sets_an_option_that_exists():
    assert {flag.option for flag in FLAGS} <= set(all_options())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert command in help_of(capsys, command, "--help")


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["trian"], "did you mean train"),
        (["train", "fast", "--data", "x", "--output", "o", "--trainsteps", "3"], "did you mean --train-steps"),
        (["train", "fast", "--data", "x", "--output", "o", "--model.nlayer", "3"], "did you mean --model.n_layer"),
        (["train", "fats"], "gym, fast, key-to-door"),
        (["evaluate", "run", "--env-id", "x", "--target-retrun", "3"], "did you mean --target-return"),
    ],
)
def test_a_misspelling_is_answered_with_what_was_probably_meant(arguments, suggestion, capsys):
    assert main(arguments) == 2
    assert suggestion in capsys.readouterr().err


def test_numbers_in_a_file_may_be_written_as_on_the_command_line(tmp_path, capsys):
    """YAML 1.1 reads 1e-4 as text; as an option it is a number, and so it is in a file."""
    (tmp_path / "c.yaml").write_text("training: {learning_rate: 1e-4}\n")
    arguments = ["train", "gym", "--data", "rlt:/nowhere", "--output", str(tmp_path / "o")]
    assert main([*arguments, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "/nowhere: no such folder" in capsys.readouterr().err  # the options were accepted


def test_a_folder_that_a_file_names_is_not_ignored_silently(tmp_path, capsys):
    arguments = ["train", "gym", "--data", "rlt:/nowhere", "--output", str(tmp_path / "o")]
    note = "names the output 'elsewhere'; --output"
    for name, beside, is_said in (
        ("c.yaml", None, True),
        ("config.json", None, True),
        ("config.json", "run.json", False),
    ):
        if beside:
            (tmp_path / beside).write_text("{}")
        (tmp_path / name).write_text('{"output": "elsewhere", "training": {"seed": 3}}')
        assert main([*arguments, "--config", str(tmp_path / name)]) == 2
        assert (note in capsys.readouterr().out) == is_said, name
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path / 'o'}\n")
    assert main([*arguments, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "names the output" not in capsys.readouterr().out


def test_a_file_may_hold_the_option_names_of_the_first_version(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("training: {average_decay: 0.9}\nmodel: {attention: streaming}\n")
    arguments = ["train", "gym", "--data", "rlt:/nowhere", "--output", str(tmp_path / "o")]
    assert main([*arguments, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "/nowhere: no such folder" in capsys.readouterr().err
