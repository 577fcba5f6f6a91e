"""Run `rlt`: select the command, and turn errors into messages and exit codes."""

from __future__ import annotations

import faulthandler
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import cast

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from rl_transformer.cli.command import Command, add_shared_arguments, wrong_value
from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.signals import Interrupted
from rl_transformer.runtime.system import SafeStream

# Each command is the module of this name in `rl_transformer.cli`, imported when the user calls it: importing all of
# them would make every call as slow as the slowest one.
COMMANDS = {
    "demo": "Train and evaluate on Key-to-Door, and plot the result; nothing to download.",
    "inspect": "Summarize a dataset and report its problems.",
    "train": "Train a policy from logged data.",
    "evaluate": "Evaluate a policy in an environment.",
    "targets": "Advise a target return, and say what to expect of others.",
    "compare": "Compare evaluations: differences with intervals, and what they establish.",
    "judge": "Judge from logs alone whether a policy is better than the behavior that produced them.",
    "select": "Say which of several policies to try first, and what regret to expect.",
    "plot": "Draw the learning curves of training runs.",
    "collect": "Record episodes of random actions, or of a policy, as a store.",
    "convert": "Write any dataset as a memory-mapped store.",
    "sweep": "Search for hyperparameters; several processes can share one search.",
    "pretrain": "Train a small language model to start policies from.",
    "serve": "Serve a policy's sessions over HTTP, and to robots over a WebSocket.",
    "attention": "Show which tokens a policy attends to, on logged data.",
    "reproduce": "Reproduce an experiment of the papers and check it against criteria fixed before the run.",
    "bench": "Time this library against the original authors' training loop in the same process.",
    "export": "Write a policy as ONNX, with its rules and clients that act without PyTorch.",
    "verify": "Check what a run, a policy folder or an export promises.",
    "import-hf": "Make a policy from a Decision Transformer saved by transformers.",
    "play": "Watch a policy act in a browser, and change its target return.",
    "push": "Upload a policy with its model card to the Hugging Face Hub.",
    "doctor": "Describe this installation, for a bug report.",
    "options": "List every option of a training run with its type, default and bounds.",
}


_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_HOME = re.compile(r"(--[\w.-]+=)?([a-z0-9-]{2,}:)?(?=~(/|\\|$))")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    The codes are 0 for success, 2 for a problem that the user can fix (one message says how), and 130 or 143 after a
    signal. Bugs keep their traceback, and Python exits with 1.

    Args:
        arguments: Words after `rlt`; None: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except RLTransformerError as error:
        # No traceback: the cause is outside of the program, and the message says where.
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        # `rlt reproduce` has no --resume: it always continues with the runs that are missing.
        repeat = "the same command; finished runs are not repeated" if words[:1] == ["reproduce"] else "--resume"
        print(f"{error}; continue with {repeat}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # Ctrl-C in a command that does not handle signals, so there is nothing to continue
        return 130


def _run(words: list[str]) -> int:
    """Run the command that the first word names."""
    # No subparsers of argparse: they would need the parsers of all commands, and with them their imports.
    if not words:
        raise RLTransformerError("no command is given", where="rlt", fix="rlt --help lists the commands")
    if words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "-V", "version"):
        from rl_transformer import __version__

        print(f"rl_transformer {__version__}")
        # The usual spelling of what `rlt doctor` does.
        return _run(["doctor"]) if words[1:] == ["--verbose"] else 0
    name = words[0]
    if name not in COMMANDS:
        fix = f"{did_you_mean(name, COMMANDS)}rlt --help lists them"
        raise RLTransformerError(f"there is no command {name!r}", where="rlt", fix=fix)
    command = cast(Command, import_module(f"rl_transformer.cli.{name.replace('-', '_')}"))
    parser = command.make_parser(f"rlt {name}", words[1] if len(words) > 1 else None)
    args = _parse(parser, words[1:])
    return _run_command(command, args)


def _run_command(command: Command, args: Namespace) -> int:
    """Load the plugins, run the command and write its result if ``--json`` was given."""
    from rl_transformer.runtime.files import to_json, write_output
    from rl_transformer.runtime.paths import check_writable
    from rl_transformer.runtime.plugins import load_installed_plugins, load_plugins

    check_writable(args.json)
    # Plugins come before the command, because options may already name what they register.
    load_installed_plugins()
    load_plugins(args.plugin)
    try:
        outcome = command.run(args)
    except SystemExit as error:
        # Code that is not ours, such as an environment's, would end the command with a code of its own, perhaps 0.
        raise RLTransformerError(
            f"was ended by code that it runs (SystemExit: {error.code})",
            where="rlt",
            fix="repair the environment or module that calls sys.exit(); calling rl_transformer from Python shows where",
        ) from error
    if args.json:
        write_output(Path(args.json), to_json(outcome.content))
    return outcome.exit_code


def _overview() -> str:
    """Return the text of `rlt --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rlt COMMAND [arguments]",
            "",
            "Offline reinforcement learning by sequence modeling.",
            "",
            *lines,
            "",
            "rlt COMMAND --help shows a command's arguments; rlt --version the version.",
        ]
    )


def _parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Return the parsed arguments.

    Raises:
        RLTransformerError: The parser rejects the arguments; similar options are suggested.
    """
    # Surplus words are errors. In its other mode jsonargparse takes them as values of options, in the order of the
    # help.
    set_parsing_settings(parse_optionals_as_positionals=False)
    add_shared_arguments(parser)
    try:
        return parser.parse_args([_readable(word) for word in words])
    except ArgumentError as error:
        wrong = wrong_value(parser, str(error), words)
        if wrong is not None:
            raise RLTransformerError(wrong[0], where=parser.prog, fix=wrong[1]) from None
        # Messages of the parser can contain line breaks and the text of whole types.
        problem = " ".join(str(error).split())[:600]
        fix = f"see {parser.prog} --help"
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        known = list(parser._option_string_actions)
        for word in given:
            if word not in known:
                fix = f"{did_you_mean(word, known)}{fix}"
        raise RLTransformerError(problem, where=parser.prog, fix=fix) from None


def _readable(word: str) -> str:
    """Return a word of the command line in a form that the parser reads as the user means it."""
    # The parser takes words that begin with a dash for options, except plain decimals: -1e3 becomes -1000.
    if _NEGATIVE_NUMBER.fullmatch(word):
        return format(Decimal(word), "f")
    # The shell expands ~ only where a word begins with it, so not in --output=~/walks or rlt:~/walks.
    match = _HOME.match(word)
    return word if match is None else word[: match.end()] + str(Path.home()) + word[match.end() + 1 :]


def entry() -> None:
    """Run `rlt` as a program; `rl_transformer.__main__` calls this, and installations of earlier versions do."""
    # A crash inside of a library, or a mapped file that is cut while it is read, would end without a word.
    with suppress(OSError, ValueError, AttributeError, RuntimeError):  # no stderr, or one that is no file
        faulthandler.enable()
    sys.stdout = SafeStream(sys.stdout)
    sys.stderr = SafeStream(sys.stderr)
    code = main()
    sys.stdout.flush()  # here and not when the interpreter exits, where a failure would be printed
    sys.exit(code)
