"""Claims about cured data: nothing is invented, everything is accounted for, and what was called cured is gone."""

import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.trajectories.cures import write_cured
from rl_transformer.trajectories.open import read_trajectories
from rl_transformer.trajectories.readers.interface import Source
from rl_transformer.trajectories.trajectory import Trajectory
from tests.trajectories.planted_defects import CONTINUOUS, DISCRETE, EXTRAS, FLAGS, clean_episodes, spec_of, write

PLANTS = {**{name: (*plant, False) for name, plant in CONTINUOUS.items()}}
PLANTS |= {name: (*plant, True) for name, plant in DISCRETE.items()}


def trajectories_of(episodes, discrete):
    """Return the spec and the episodes of arrays, as a reader would give them."""
    made = [
        Trajectory(
            e["observations"],
            e["actions"],
            np.asarray(e["rewards"]),
            terminated=bool(e["terminated"]),
            truncated=bool(e["truncated"]),
            final_observation=e.get("final_observation"),
            extras={k: e[k] for k in sorted({*EXTRAS, *FLAGS} & set(e))},
        )
        for e in episodes
    ]
    return spec_of(discrete), made


def cure(episodes, folder, *, discrete=False):
    data = write(episodes, "arrays", folder, discrete=discrete)
    spec, made = trajectories_of(episodes, discrete)
    return data, made, write_cured(lambda: Source(spec, iter(made)), data, folder / "clean")


@pytest.mark.parametrize("name", [name for name, plant in PLANTS.items() if "arrays" in plant[3]])
def test_what_was_called_cured_is_gone_and_every_step_is_accounted_for(name, tmp_path):
    kind, field, plant, _, discrete = PLANTS[name]
    episodes = clean_episodes(2, discrete=discrete)
    plant(episodes, np.random.default_rng(4))
    _, made, treatment = cure(episodes, tmp_path, discrete=discrete)
    clean = open_trajectories(f"rlt:{treatment.store}")
    again = {(f.kind, f.field) for f in clean.findings}
    done = [c for c in treatment.cures if c.action != "left"]
    assert not {(c.kind, c.field) for c in done} & again
    assert not [f for f in clean.findings if f.level == "error"]
    lost = sum(c.steps for c in done)
    assert (
        treatment.steps_in == treatment.steps_out + lost == sum(len(t.rewards) if t.rewards.ndim else 0 for t in made)
    )
    about = [c for c in treatment.cures if c.kind == kind and field in (None, c.field)]
    assert about or kind in {c.kind for c in done}
    assert all(c.reason for c in treatment.cures)


def test_nothing_that_remains_was_changed(tmp_path):
    episodes = clean_episodes(3)
    episodes[4]["rewards"][5] = np.nan
    episodes.append(episodes[0])
    data, made, treatment = cure(episodes, tmp_path)
    clean = open_trajectories(f"rlt:{treatment.store}")
    kept = [index for index in range(len(made)) if index not in (4, len(made) - 1)]
    assert len(clean) == len(kept)
    for new, old in enumerate(kept):
        np.testing.assert_array_equal(clean.trajectory(new).observations, made[old].observations)
        np.testing.assert_array_equal(clean.trajectory(new).actions, made[old].actions)
        np.testing.assert_array_equal(clean.trajectory(new).rewards, made[old].rewards)
    dropped = {c.kind: (c.action, c.episodes, c.steps, c.places) for c in treatment.cures if c.action != "left"}
    assert dropped["not finite"] == ("dropped", 1, len(episodes[4]["rewards"]), [{"episode": 4}])
    assert dropped["duplicate episode"] == ("dropped", 1, len(episodes[0]["rewards"]), [{"episode": len(made) - 1}])
    told = [f for f in clean.findings if f.kind == "cured"]
    assert len(told) == 2
    assert not data.summary.content


def test_episodes_that_were_recorded_as_one_are_cut_and_their_returns_computed_anew(tmp_path):
    episodes = clean_episodes(5)
    length = len(episodes[2]["rewards"])
    for index, episode in enumerate(episodes):
        episode["dones"] = np.arange(len(episode["rewards"])) == (10 if index == 2 else len(episode["rewards"]) - 1)
    _, made, treatment = cure(episodes, tmp_path)
    clean = open_trajectories(f"rlt:{treatment.store}")
    assert len(clean) == len(made) + 1
    assert clean.lengths[2:4].tolist() == [11, length - 11]
    assert clean.summary.terminated[2]
    np.testing.assert_allclose(clean.episode_returns[2], made[2].rewards[:11].sum())
    np.testing.assert_allclose(clean.returns_to_go[clean.offsets[2]], made[2].rewards[:11].sum(), rtol=1e-6)
    assert "dones" not in clean.columns


def test_data_without_any_end_is_not_dropped_for_it(tmp_path):
    episodes = [{**e, "terminated": False, "truncated": False} for e in clean_episodes(6)]
    *_, treatment = cure(episodes, tmp_path)
    assert treatment.episodes_out == len(episodes)
    (left,) = [c for c in treatment.cures if c.kind == "unfinished episode"]
    assert (left.action, left.level) == ("left", "warning")


def test_a_source_of_which_nothing_is_left_is_an_error_that_says_why(tmp_path):
    episodes = clean_episodes(7)
    for episode in episodes:
        episode["observations"][0, 0] = np.nan
    with pytest.raises(RLTransformerError, match=r"no episode is left.*not finite"):
        cure(episodes, tmp_path)
    assert not (tmp_path / "clean").exists()


def test_a_file_is_cured_by_its_uri_and_curing_again_changes_nothing(tmp_path, capsys):
    episodes = clean_episodes(8)
    episodes[1]["observations"][3, 2] = np.inf
    uri = write(episodes, "d4rl", tmp_path)
    assert main(["inspect", uri]) == 2
    assert main(["inspect", uri, "--fix", str(tmp_path / "one")]) == 0
    assert main(["inspect", f"rlt:{tmp_path / 'one'}", "--fix", str(tmp_path / "two")]) == 0
    assert "29 of 30 episodes" in capsys.readouterr().out
    one, two = (read_trajectories(f"rlt:{tmp_path / name}") for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert [f.kind for f in two.findings] == [f.kind for f in one.findings]
    assert main(["inspect", uri, "--fix", str(tmp_path / "one")]) == 2  # never over something
