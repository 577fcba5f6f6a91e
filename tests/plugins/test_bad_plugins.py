"""Claims about plugins that do not work: the command ends with 2 and one message that names the module."""

from pathlib import Path

import pytest

from rl_transformer.cli.main import main
from tests.plugins.conftest import PARTS, PLUGIN, rlt, train_words

ABSENT = "cannot be imported: No module named"
WHILE = "while it was imported"

# What is wrong with a module: its text, or a change of the good one; and the message.
AT_IMPORT = {
    "it raises": ("1 / 0", f"raised ZeroDivisionError {WHILE}: division by zero"),
    "it is not Python": ("def broken(:", f"raised SyntaxError {WHILE}"),
    "it exits": ("raise SystemExit(0)", f"raised SystemExit {WHILE}"),
    "it imports what is absent": ("import absent_module", f"{ABSENT} 'absent_module'"),
    "it opens data that is absent": (
        "import rl_transformer\nrl_transformer.open_trajectories('rlt:/absent')",
        "/absent: no such folder",
    ),
    "a taken reader": (('"xyz"', '"minari"'), "registers the reader 'minari', which rl_transformer has"),
    "a taken head": (('"my_head"', '"gaussian"'), "registers the action head 'gaussian', which rl_transformer has"),
    "a taken encoder": (('"my_encoder"', '"vector"'), "registers the state encoder 'vector'"),
    "a taken condition": (('CONDITIONS.register("my_condition"', 'CONDITIONS.register("cost_to_go"'), "'cost_to_go'"),
    "a taken trunk": (('"my_trunk"', '"gpt2"'), "registers the trunk 'gpt2', which rl_transformer has"),
    "a name with a space": (('"my_head"', '"my head"'), "registers the action head 'my head'"),
    "a reader without usage": (("    usage = ", "    use = "), "'xyz', which lacks usage"),
    "a reader without open": (("    def open(", "    def read("), "'xyz', which lacks open"),
    "a head without a loss": (("    def loss(", "    def cost("), "'my_head', which lacks loss"),
    "a head without space kinds": (("    space_kinds = ", "    spaces = "), "which lacks space_kinds"),
    "a condition without after": (("    def after(", "    def later("), "'my_condition', which lacks after"),
}


def changed(change):
    """Return the good module with one change, or a text of its own."""
    if isinstance(change, str):
        return change
    old, new = change
    assert PLUGIN.count(old) >= 1
    return PLUGIN.replace(old, new)


def write_bad(folder, change, module="bad"):
    """Write a module that is not the good one."""
    (folder / f"{module}.py").write_text(changed(change))


@pytest.mark.parametrize("case", AT_IMPORT)
def test_a_module_that_fails_while_it_is_imported_is_named(here, refused, case):
    change, problem = AT_IMPORT[case]
    write_bad(here, change)
    message = refused(*train_words("run", PARTS, plugin="bad"))
    assert message.startswith("error: plugin bad: ")
    assert problem in message
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("absent", f"{ABSENT} 'absent'"),
        ("my_plugin.py", f"{ABSENT} 'my_plugin.py'"),
        ("absent.part", f"{ABSENT} 'absent'"),
        ("./my_plugin", "is not the name of a module"),
        ("folder/my_plugin.py", "is not the name of a module"),
        ("", "is not the name of a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_how_to_name_one(here, refused, module, problem):
    message = refused(*train_words("run", PARTS), "--plugin", module)
    assert message.startswith(f"error: plugin {module}: {problem}")
    assert "name an importable module, for example my_plugin for my_plugin.py in the working directory" in message


def test_a_missing_dependency_of_a_module_is_named_with_how_to_get_it(here, refused):
    write_bad(here, "import absent_module.part")
    message = refused(*train_words("run", PARTS, plugin="bad"))
    assert "fix: install absent_module, which the plugin imports" in message


# Parts that break their contract once they are used: a change of the good module, and the message.
READER = {
    "open raises": (("        spec = ", "        raise KeyError(path)\n        spec = "), "open() raised KeyError"),
    "open returns an iterator": (
        ("Source(spec, self._episodes(path, skip))", "self._episodes(path, skip)"),
        "not a Source",
    ),
    "open returns nothing": (("return Source(spec, ", "(spec, "), "open() returned NoneType, not a Source"),
    "no spec": (("Source(spec, ", "Source({}, "), "Source.spec is dict, not a DataSpec"),
    "no iterator": (("self._episodes(path, skip))", "7)"), "Source.trajectories is int, not an iterator"),
    "no findings": (("(path, skip))", "(path, skip), 7)"), "Source.notes is int, not a list of Finding"),
    "no Trajectory": (("yield Trajectory", "yield line or Trajectory"), "episode 0 is str, not a Trajectory"),
    "raises later": (("yield Trajectory", "yield 1 / 0 or Trajectory"), "episode 0 raised ZeroDivisionError"),
    "lists": (
        (
            'Trajectory.from_mapping({**json.loads(line), "terminated": True}, where=path)',
            "Trajectory(*list(json.loads(line).values())[:3], True)",
        ),
        "actions of episode 0 is list, not ndarray",
    ),
    "no options": (("options = {", "options = {7}, {"), "options is not a mapping from names to ReaderOption"),
}
ENCODER = {
    "too narrow": (("(24, config.hidden_size)", "(24, 5)"), "became (2, 3, 5) torch.float32, not (2, 3, 8)"),
    "one token per window": (("torch.tanh(self.first(states))", "self.first(states).mean(1)"), "became (2, 8)"),
    "no numbers": (("return self.second(", "return (self, "), "became tuple, not (2, 3, 8)"),
    "whole numbers": (("(states))))", "(states)))).long()"), "became (2, 3, 8) torch.int64"),
    "a constructor that raises": (("config.state_dim", "config.states"), "the encoder's constructor raised Attr"),
    "a call that raises": (("torch.tanh(", "torch.tan_h("), "the encoder raised AttributeError"),
    "no module": (('"my_encoder", MyEncoder', '"my_encoder", len'), "the encoder's constructor raised TypeError"),
    "a plain object": (('"my_encoder", MyEncoder', '"my_encoder", str'), "it built str, not an nn.Module"),
    "torch's dropout": (("Dropout(0.2)", "nn.Dropout(0.2)"), "dropout is Dropout with dropout 0.2, which a resumed"),
}
HEAD = {
    "a loss of one number": (("+ width.log()).mean(-1)", "+ width.log()).mean()"), "loss() has shape ()"),
    "a loss per dimension": (("+ width.log()).mean(-1)", "+ width.log())"), "loss() has shape (2, 3, 1), not (2, 3)"),
    "an error of one number": (("- actions).abs().mean(-1)", "- actions).abs().mean()"), "error() has shape ()"),
    "an action too long": (("return parameters.chunk(2, dim=-1)[0]", "return parameters"), "greedy() has shape"),
    "a draw without axes": ((".clamp(-1, 1).float()", ".mean()"), "sample() has shape (), not (2, 3, 1)"),
    "a narrow embedding": (("nn.Linear(config.act_dim, config.hidden_size)", "nn.Linear(1, 3)"), "the embedding has"),
    "an entropy per dimension": ((".log().sum(-1)", ".log()"), "entropy() has shape (2, 3, 1), not (2, 3)"),
    "no number of uniforms": (("self.num_uniforms", "self.uniforms"), "has no attribute 'num_uniforms'"),
    "no number of legal actions": (("    num_allowed = 0\n", ""), "has no attribute 'num_allowed'"),
    "legal actions of vectors": (("num_allowed = 0", "num_allowed = 4"), "num_allowed is 4, neither 0 nor"),
    "a method that raises": (("chunk(2, dim=-1)[0]", "chunk(2, dim=-1)[7]"), "a call raised IndexError"),
    "no module": (("class MyHead(nn.Module):", "class MyHead:"), "it built MyHead, not an nn.Module"),
}
CONDITION = {
    "a long column": ((".astype(np.float32)", ".astype(np.float32)[:-1]"), "column() has shape (79,), not (80, 1)"),
    "a wide column": ((".astype(np.float32)", ".reshape(40, 2)"), "column() has shape (40, 2), not (80, 1)"),
    "NaN": ((".astype(np.float32)", " * np.nan"), "column() holds NaN or infinite values"),
    "a list": ((".astype(np.float32)", ".tolist()"), "column() returned list, not an array of numbers"),
    "text": ((".astype(np.float32)", ".astype(str)"), "column() returned an array of <U32, not an array of numbers"),
    "a column that raises": (("sum_to_go(dataset.col", "sum_to_go(dataset.row"), "column() raised AttributeError"),
    "from_data raises": (('np.abs(dataset.columns["fuel"])', '{}["fuel"]'), "from_data() raised KeyError: 'fuel'"),
    "from_data returns nothing": (("return cls(scale=float", "cls(scale=float"), "from_data() returned NoneType"),
    "another name": (('name = "my_condition"', 'name = "fuel"'), "whose name is not 'my_condition'"),
    "no width": (("    width = 1\n", ""), "has no attribute 'width'"),
    "a width of zero": (("width = 1", "width = 0"), "width 0 and scale"),
    "a scale of zero": (("return cls(scale=float(", "return cls(scale=0 * float("), "scale 0.0 are not a positive"),
    "no JSON": (("**asdict(self)", '"data": {1}'), "to_dict() and from_dict() raised TypeError"),
    "no name in JSON": (('"name": self.name, ', ""), "from_dict() does not restore what to_dict() made"),
    "another scale from JSON": (('values["scale"]', "2.0"), "from_dict() does not restore what to_dict() made"),
    "after has another shape": (("value - outcome[:, None]", "value[:, 0] - outcome"), "after() made the shape (72,)"),
    "after counts otherwise": (("value - outcome[:, None]", "value"), "one step later, where after() gives"),
    "after raises": (("outcome[:, None]", "outcome[:, :, None]"), "after() raised IndexError"),
}
TRUNK = {
    "not causal": (
        ("batch_first=True)", "batch_first=True, bidirectional=True)"),
        "tokens (7, 6, 8) became (7, 6, 16) in run()",
    ),
    "looks ahead": (
        ("self.layers(tokens)[0]", "self.layers(tokens.flip(1))[0].flip(1)"),
        "it is not causal: the output",
    ),
    "averages": (("self.layers(tokens)[0]", "tokens - tokens.mean(1, keepdim=True)"), "it is not causal: the output"),
    "two sets of numbers": (
        ("last_hidden_state[:, positions]", "last_hidden_state[:, positions] + 1"),
        "run() and hidden_at() compute different numbers",
    ),
    "all tokens": (
        ("last_hidden_state[:, positions]", "last_hidden_state"),
        "became (7, 6, 8) in run() and (7, 6, 8) in hidden_at()",
    ),
    "no TrunkOutput": (("TrunkOutput(self.layers(tokens)[0])", "self.layers(tokens)"), "a call raised Attribute"),
    "no hidden_at": (("def hidden_at", "def hidden"), "has no attribute 'hidden_at'"),
    "no module": (('"my_trunk", MyTrunk', '"my_trunk", dict'), "the constructor raised TypeError"),
    "torch's dropout": (("batch_first=True", "batch_first=True, dropout=0.1"), "is GRU with dropout 0.1, which a"),
}
USED = [
    (kind, case)
    for kind, cases in {
        "reader": READER,
        "encoder": ENCODER,
        "head": HEAD,
        "condition": CONDITION,
        "trunk": TRUNK,
    }.items()
    for case in cases
]
CASES = {"reader": READER, "encoder": ENCODER, "head": HEAD, "condition": CONDITION, "trunk": TRUNK}
NAMES = {
    "reader": "the reader 'xyz'",
    "encoder": "the state encoder 'my_encoder'",
    "head": "the action head 'my_head'",
    "condition": "the condition 'my_condition'",
    "trunk": "the trunk 'my_trunk'",
}


@pytest.mark.parametrize(("kind", "case"), USED, ids=lambda value: value)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last")
def test_a_part_that_breaks_its_contract_is_named_before_anything_is_written(here, refused, kind, case):
    change, problem = CASES[kind][case]
    write_bad(here, change)
    options = {"model.blocks": "my_trunk"} if kind == "trunk" else PARTS
    message = refused(*train_words("run", options, plugin="bad"))
    assert message.startswith(f"error: plugin bad: {NAMES[kind]} breaks its contract: ")
    assert problem in message
    assert "docs/extending.md" in message
    assert not Path("run").exists()


def test_every_part_is_used_by_the_commands_above(here):
    """Unchanged, the module works: the refusals are about the changes."""
    assert main(train_words("run", PARTS | {"model.blocks": "my_trunk"})) == 0


@pytest.mark.parametrize("case", ["it raises", "a taken head"])
def test_the_installed_command_prints_no_traceback_for_a_module_that_cannot_be_loaded(here, case):
    change, problem = AT_IMPORT[case]
    write_bad(here, change)
    done = rlt(here, *train_words("run", PARTS, plugin="bad"))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_options_that_a_users_part_cannot_serve_are_refused(here, refused):
    def message(options):
        return refused(*train_words("run", options))

    assert "the trunk 'my_trunk' has no sliding-window attention" in message(
        {"model.blocks": "my_trunk", "model.attention": "sliding_window"}
    )
    assert "the trunk MyTrunk has no attention that LoRA could update" in message(
        {"model.blocks": "my_trunk", "training.trunk": "lora"}
    )
    assert "a call with model.tie_action_head raised RuntimeError" in message(
        {"model.action_head": "my_head", "model.tie_action_head": "true"}
    )


@pytest.mark.parametrize(
    ("change", "option", "problem"),
    [
        ("has_entropy", {"training.entropy_weight": 0.1}, "the my_head head has no entropy bonus"),
        ("can_sample", {"policy.action_selection": "sample"}, "the my_head head has no distribution to sample from"),
    ],
)
def test_options_that_a_users_head_says_it_cannot_serve_are_refused(here, refused, change, option, problem):
    write_bad(here, (f"{change} = True", f"{change} = False"))
    assert problem in refused(*train_words("run", PARTS | option, plugin="bad"))


def test_a_condition_that_fails_while_acting_is_named_and_the_environment_is_not_blamed(here, refused):
    write_bad(here, ("value - outcome[:, None]", "np.where(value < -1, np.nan, value - outcome[:, None])"))
    assert main(train_words("run", PARTS, plugin="bad")) == 0
    evaluate = ["evaluate", "run", "--plugin", "bad", "--env-id", "my_plugin/Drive-v0", "--num-episodes", "1"]
    message = refused(*evaluate, "--target-return", "3", "--target", "my_condition=-5")
    assert (
        "the condition 'my_condition' breaks its contract: after() made NaN or infinite values of [[-5.0]]" in message
    )
