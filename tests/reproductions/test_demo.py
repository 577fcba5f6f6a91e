"""Claims about the demo: what it writes, what it replaces, what it refuses. Its full size runs in `make demo`."""

import json

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.reproductions import demo, key_to_door_arms


@pytest.fixture
def small(monkeypatch):
    full_preset = key_to_door_arms.key_to_door

    def preset():
        config = full_preset()
        config.training.train_steps = 3
        config.training.batch_size = 4
        config.training.threads = 1
        return config

    monkeypatch.setattr(key_to_door_arms, "key_to_door", preset)
    monkeypatch.setattr(demo, "NUM_EPISODES", 20)
    monkeypatch.setattr(
        demo,
        "ARMS",
        tuple(arm.__class__(**{**vars(arm), "num_trajectories": arm.num_trajectories // 10}) for arm in demo.ARMS),
    )
    collect = demo.collect
    monkeypatch.setattr(demo, "collect", lambda folder, count: collect(folder, count // 10))


def test_the_demo_writes_what_it_promises_and_replaces_itself_alone(small, tmp_path, capsys):
    folder = tmp_path / "demo"
    report = demo.run_demo(folder)
    stored = json.loads((folder / "report.json").read_text())
    assert stored == json.loads(json.dumps(report))
    assert set(stored["arms"]["1000"]) == {
        "decision_transformer",
        "behavior_cloning",
        "behavior_cloning_same_sampler",
        "percent_bc",
    }
    assert "decision_transformer" in stored["arms"]["100"]
    for rate in [*stored["arms"]["1000"].values(), stored["target_zero"]]:
        assert set(rate) == {"rate", "interval", "successes", "episodes"}
        assert rate["episodes"] == 20
        assert rate["interval"][0] <= rate["rate"] <= rate["interval"][1]
    assert stored["random"]["episodes"] == 1000
    assert stored["random_exact"] == pytest.approx(0.02815, abs=1e-5)
    low, high = stored["collection_seeds"]
    assert not low <= stored["evaluation_seeds"][0] <= high
    assert (folder / "figure.png").stat().st_size > 5000
    assert "Decision Transformer" in capsys.readouterr().out

    for name in (".git", "notes"):
        (folder / name).mkdir()
        with pytest.raises(RLTransformerError, match="which no demo wrote"):
            demo.run_demo(folder)
        (folder / name).rmdir()
    (folder / "mine.txt").write_text("keep me")
    with pytest.raises(RLTransformerError, match=r"holds mine\.txt, which no demo wrote"):
        demo.run_demo(folder)
    assert (folder / "report.json").exists()
    (folder / "mine.txt").unlink()
    demo.run_demo(folder)


def test_the_demo_leaves_a_folder_alone_that_merely_looks_like_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.csv").write_text("1,2")
    with pytest.raises(RLTransformerError, match="holds data, which no demo wrote"):
        demo.run_demo(tmp_path)
    with pytest.raises(RLTransformerError, match="is not a folder"):
        demo.run_demo(tmp_path / "data/mine.csv")
    assert (tmp_path / "data/mine.csv").exists()


def test_the_demo_ships_no_weights_and_no_trajectories():
    from pathlib import Path

    shipped = [
        p
        for p in Path(demo.__file__).parents[1].rglob("*")
        if p.is_file()
        and p.suffix not in (".py", ".pyc", ".typed")
        # The page of rlt play and the JavaScript client of rlt export are text.
        and p.suffix not in (".html", ".css", ".js", ".mjs")
        and not p.name.startswith("LICENSE")
    ]
    assert shipped == []
