"""`python -m rl_transformer` is `rlt`."""

from rl_transformer.cli.main import entry

if __name__ == "__main__":
    entry()
