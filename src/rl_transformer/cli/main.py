"""`rlt`: one table of commands, and one place where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from rl_transformer.cli import commands
from rl_transformer.cli.pretrain import add_pretrain_arguments, run_pretrain
from rl_transformer.cli.train import add_sweep_arguments, add_train_arguments, run_sweep, run_train
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.signals import Interrupted

_COMMANDS = {
    "demo": (
        commands.add_demo_arguments,
        commands.run_demo,
        "Key-to-Door from random walks to a chart; nothing to download.",
    ),
    "reproduce": (
        commands.add_reproduce_arguments,
        commands.run_reproduce,
        "Rerun an experiment of the papers, and judge it by a rule written before.",
    ),
    "bench": (commands.add_bench_arguments, commands.run_bench, "Time ours against the published loop, in one run."),
    "inspect": (
        commands.add_inspect_arguments,
        commands.run_inspect,
        "Show what a data set holds and what is wrong with it.",
    ),
    "train": (add_train_arguments, run_train, "Train a policy from logged data."),
    "pretrain": (add_pretrain_arguments, run_pretrain, "Train a small language model, to start policies from."),
    "sweep": (add_sweep_arguments, run_sweep, "Search options; several processes may share a search."),
    "evaluate": (commands.add_evaluate_arguments, commands.run_evaluate, "Score a policy in a live environment."),
    "attention": (
        commands.add_attention_arguments,
        commands.run_attention,
        "Show what a policy's tokens attend to, on logged data.",
    ),
    "collect": (
        commands.add_collect_arguments,
        commands.run_collect,
        "Record episodes of random actions, or of a policy, as a store.",
    ),
    "convert": (commands.add_convert_arguments, commands.run_convert, "Write any data set as a memory-mapped store."),
}


def make_parser(arguments: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser; ``arguments`` tell which preset's values are the defaults of `train`."""
    set_parsing_settings(parse_optionals_as_positionals=False)
    parser = ArgumentParser(
        prog="rlt", description="Offline reinforcement learning by sequence modelling.", exit_on_error=False
    )
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, (add_arguments, _, description) in _COMMANDS.items():
        command = ArgumentParser(description=description, exit_on_error=False)
        add_arguments(command, arguments)
        subcommands.add_subcommand(name, command, help=description)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the user can fix it; bugs keep their traceback (1)."""
    arguments = _files_first(list(sys.argv[1:] if arguments is None else arguments))
    try:
        parsed = _parse(arguments)
        return _COMMANDS[parsed.subcommand][1](parsed[parsed.subcommand], arguments) or 0
    except RLTransformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        again = "the same command: what is finished is kept" if arguments[:1] == ["reproduce"] else "--resume"
        print(f"{error}; continue with {again}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parse(arguments: list[str]) -> Namespace:
    """Parse, and turn what the parser refuses into our error; an error of a command itself stays what it is."""
    try:
        return make_parser(arguments).parse_args(arguments)
    except (ArgumentError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())[:600]
        command = " ".join(["rlt", *[name for name in arguments[:1] if name in _COMMANDS]])
        in_file = problem.startswith("Problems parsing config") and "--config" in arguments
        if isinstance(error, UnicodeDecodeError):
            problem, in_file = f"is not text: {problem}", "--config" in arguments
        where = arguments[arguments.index("--config") + 1] if in_file else command
        raise RLTransformerError(problem, where=where, fix=f"see {command} --help") from None


def _files_first(arguments: list[str]) -> list[str]:
    """Move ``--config FILE`` to the front of the options, so that an option wins over the file wherever it stands."""
    files, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            files += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            (files if word.startswith("--config=") else rest).append(word)
    return [*rest[:2], *files, *rest[2:]]


def entry() -> None:
    """Entry point of the command `rlt`."""
    sys.exit(main())
