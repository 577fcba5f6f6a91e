"""Claims about writing stores: nothing of the data leads out of the folder, and nothing there is lost."""

from dataclasses import replace

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data


def with_column(name, *dtypes):
    """Return spaces and episodes with a further column, whose type may differ between episodes."""
    data = point_data(len(dtypes))
    episodes = [data.trajectory(i) for i in range(len(dtypes))]
    columns = [{name: np.zeros(len(e.rewards), dtype)} for e, dtype in zip(episodes, dtypes, strict=True)]
    return data.spec, [replace(e, extras=extras) for e, extras in zip(episodes, columns, strict=True)]


@pytest.mark.parametrize("name", ["../stolen", "../../stolen", "a b", ".hidden"])
def test_the_name_of_a_column_does_not_lead_out_of_the_store(name, tmp_path):
    data = write_store(tmp_path / "deep/folder/store", *with_column(name, np.float32))
    assert name in data.columns
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "deep/folder/store"}
    assert len(list(tmp_path.rglob("*stolen*"))) == ("stolen" in name)


def test_a_column_has_one_type_in_all_episodes(tmp_path):
    """Bytes of float64 in a column of float32 would be twice as many numbers, all of them wrong."""
    with pytest.raises(RLTransformerError, match="rows of float64") as caught:
        write_store(tmp_path / "store", *with_column("cost", np.float32, np.float64))
    assert caught.value.where == "cost"
    assert not (tmp_path / "store").exists()
    assert len(write_store(tmp_path / "store", *with_column("cost", np.float32, np.float32))) == 2


def test_a_folder_with_content_is_not_overwritten(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("all of it")
    data = point_data(1)
    with pytest.raises(RLTransformerError, match="exists already and is not empty"):
        write_store(tmp_path / "store", data.spec, [data.trajectory(0)])
    assert (tmp_path / "store" / "thesis.txt").read_text() == "all of it"
