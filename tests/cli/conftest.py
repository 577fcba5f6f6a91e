"""A store and two runs, made once through the command line."""

import pytest

from rl_transformer.cli.main import main
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data

QUICK = [
    "--train-steps",
    "4",
    "--model.hidden_size",
    "8",
    "--model.n_layer",
    "1",
    "--training.batch_size",
    "4",
    "--training.threads",
    "1",
]


@pytest.fixture(scope="package")
def ready(tmp_path_factory):
    """A store, a trained run and a cloner, made through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data = point_data()
    write_store(folder / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
    store = f"rlt:{folder / 'store'}"
    assert main(["train", "gym", "--data", store, "--output", str(folder / "run"), *QUICK]) == 0
    assert (
        main(["train", "gym", "--data", store, "--output", str(folder / "bc"), *QUICK, "--model.conditions", "[]"]) == 0
    )
    return folder
