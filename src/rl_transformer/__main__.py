"""`python -m rl_transformer` is `rlt`, and the installed command begins here, too."""

import signal


def entry() -> None:
    """Run `rlt` as a program: the entry point in pyproject.toml."""
    # Ctrl-C in the first tenths of a second would print the traceback of whatever is being imported. Until commands can
    # answer it, the system ends the process instead; a shell reports both as 130. Ignored signals stay ignored.
    answers = signal.getsignal(signal.SIGINT)
    if answers is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rl_transformer.cli.main import entry as run

    signal.signal(signal.SIGINT, answers)
    run()


if __name__ == "__main__":
    entry()
