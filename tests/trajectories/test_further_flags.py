"""Claims about flags of episode ends under names that may also mean something else."""

import h5py
import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from tests.toys import telling_data
from tests.trajectories.foreign_files import write_d4rl
from tests.trajectories.samples import from_vectors, vectors

IS_LAST = np.arange(6) == 5
IS_INNER_END = np.isin(np.arange(6), (2, 5))
TRUNCATED = ("trunc", "time_limit", "timelimits")
SET_AT_ENDS = ("ended", "end", "ends", "term", "absorbing", "next_ended", *TRUNCATED)


def as_mask(ends):
    return 1 - ends.astype(np.float32)


def as_discount(ends):
    return 0.99 * (1 - ends)


def as_step_type(ends):
    types = np.where(ends, 2, 1)
    types[0] = 0
    return types


COLUMNS = [
    *((name, np.array) for name in SET_AT_ENDS),
    *((name, as_mask) for name in ("mask", "masks", "discount", "continues", "nonterminals")),
    *(("discounts", as_discount), ("step_type", as_step_type), ("stepType", as_step_type)),
]


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_flag_under_a_further_name_is_read_at_the_end_and_refused_inside(name, column):
    data = from_vectors(
        vectors(terminated=None, **{name: column(IS_LAST)}), vectors(terminated=None, **{name: column(IS_LAST & False)})
    )
    assert data.summary.truncated.tolist() == [name in TRUNCATED, False]
    assert data.summary.terminated.tolist() == [name not in TRUNCATED, False]
    assert name not in data.columns
    with pytest.raises(RLTransformerError, match=f"{name}: is (set|0) at step 2 of 6") as caught:
        from_vectors(vectors(terminated=None, **{name: column(IS_INNER_END)}))
    assert "terminated or truncated" in caught.value.fix


def test_a_step_type_that_begins_again_is_refused():
    with pytest.raises(RLTransformerError, match="at step 3 of 6"):
        from_vectors(vectors(step_type=np.array([0, 1, 1, 1, 0, 1])))


def test_a_changing_discount_that_is_0_inside_is_refused():
    with pytest.raises(RLTransformerError, match="discount: is 0 at step 2 of 6"):
        from_vectors(vectors(discount=np.array([1, 0.99, 0, 1, 0.99, 0])))


def test_columns_that_are_no_flags_stay_columns():
    columns = {
        "success": IS_INNER_END,
        "episode_id": np.arange(6) // 3,
        "mask": np.random.default_rng(0).integers(0, 2, (6, 4)),
        "legal_actions": np.random.default_rng(0).integers(0, 2, (6, 4)),
        "end": np.linspace(0, 1, 6),
        "discounts": np.linspace(0.9, 1, 6),
        "step_type": np.arange(6),
    }
    assert set(columns) <= set(from_vectors(vectors(**columns)).columns)


def test_masks_beside_done_tell_termination_from_truncation():
    """As in the datasets of IQL: done at every end, and a mask of 0 where the task ended."""
    cut = from_vectors(vectors(terminated=None, dones_float=IS_LAST, masks=np.ones(6)))
    assert (cut.summary.terminated[0], cut.summary.truncated[0]) == (False, True)


def test_flags_that_were_collected_as_objects_are_read():
    assert from_vectors(vectors(terminated=None, dones=IS_LAST.astype(object))).summary.terminated.tolist() == [True]


@pytest.mark.parametrize("name", ["masks", "ended"])
def test_a_d4rl_file_with_further_names_is_read_alike(name, tmp_path):
    data = telling_data()
    write_d4rl(tmp_path / "d.hdf5", data)
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        terminals = file["terminals"][:].astype(bool)
        file["discount"] = 0.99  # a scalar, and no flag
        file["nonterminal"] = np.zeros(len(terminals))  # of no meaning beside terminals
    assert open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}").fingerprint == data.fingerprint
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        del file["terminals"], file["nonterminal"]
        file[name] = as_mask(terminals) if name == "masks" else terminals | file["timeouts"][:].astype(bool)
    assert open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}").fingerprint == data.fingerprint
