"""Claims about the paths and URIs of stores: what names a store opens it, and anything else is said to be what it is."""

import pytest

from rl_transformer import RLTransformerError, open_trajectories, train
from rl_transformer.trajectories.store import open_store
from tests.toys import telling_data, tiny_config
from tests.trajectories.foreign_files import write_d4rl, write_minari_vectors


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_that_is_no_store_is_said_to_be_what_it_is(here):
    train(tiny_config(here / "run"), dataset=telling_data())
    (here / "empty").mkdir()
    (here / "notes").mkdir()
    (here / "notes" / "log.txt").write_text("")
    telling_data().save("all/walks")
    expected = {
        "run": "is a run of rlt train, not a store",
        "run/policy": "is a policy, not a store",
        "empty": "holds no store: it is empty",
        "notes": "holds no store",
        "all": "holds no store itself",
        "": "no path is given",
        "absent": "no such folder",
        "absent.hdf5": "no such file",
        "notes/log.txt": "is a file",
    }
    for path, problem in expected.items():
        for opened in (open_store, open_trajectories):
            with pytest.raises(RLTransformerError, match=problem) as caught:
                opened(path)
            assert "copy" not in caught.value.fix
    with pytest.raises(RLTransformerError) as caught:
        open_store("all")
    assert open_store(caught.value.fix.rpartition(": ")[2]).fingerprint == telling_data().fingerprint


def test_a_damaged_store_is_still_said_to_be_one(here):
    folder = telling_data().save("walks")
    (folder / "store.json").unlink()
    with pytest.raises(RLTransformerError, match=r"store\.json: is missing"):
        open_store(folder)


@pytest.mark.parametrize("uri", ["walks", "walks/", "./walks", "rlt:walks/", "rlt:./walks", "rlt:walks?verify=true"])
def test_a_store_opens_under_every_form_of_its_path(uri, here):
    data = telling_data()
    assert data.save("rlt:walks") == here / "walks"
    assert open_trajectories(uri).fingerprint == data.fingerprint


def test_a_suggested_uri_keeps_the_options(here, monkeypatch):
    write_d4rl(here / "d.hdf5", telling_data(), tail=2)
    with pytest.raises(RLTransformerError) as caught:
        open_trajectories("d.hdf5?keep_unfinished=true")
    uri = caught.value.fix.removeprefix("write it as ")
    assert uri == "d4rl:d.hdf5?keep_unfinished=true"
    assert open_trajectories(uri).num_steps == 15
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(here / "elsewhere"))
    write_minari_vectors("toy/telling-v0", telling_data())
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(here / "empty"))
    with pytest.raises(RLTransformerError) as caught:
        open_trajectories("rlt:elsewhere/toy/telling-v0?clip_actions=true")
    root = here / "elsewhere"
    assert caught.value.fix == f"write it as minari:toy/telling-v0?clip_actions=true, with MINARI_DATASETS_PATH={root}"


def test_options_that_are_given_twice_or_misspelled_are_refused(here):
    telling_data().save("walks")
    with pytest.raises(RLTransformerError, match="the option clip_actions is given twice"):
        open_trajectories("walks?clip_actions=true&clip_actions=false")
    with pytest.raises(RLTransformerError, match="has no option 'clip_action'") as caught:
        open_trajectories("rlt:walks?clip_action=true")
    assert "did you mean clip_actions?" in caught.value.fix
