"""Claims about `rlt compare`: its figures are scipy's, it says what they establish, and refuses what cannot be compared."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rl_transformer.cli.main import main
from rl_transformer.evaluation.differences import MOST_VALUES, not_worse, values_needed
from rl_transformer.evaluation.statistics import mean_interval

ROOT = Path(__file__).parents[2]
A = [10.0, 12.0, 11.0, 13.0, 9.0]
B = [14.0, 15.0, 15.5, 16.0, 12.0]
NOISE = [10.5, 11.0, 13.5, 13.5, 10.0]


def entry(means, target=3.0, episodes=4, **values):
    """One target: the episodes of each seed lie around the seed's mean."""
    returns = [mean + offset for mean in means for offset in np.linspace(-1, 1, episodes)]
    several = means if len(means) > 1 else []
    return {"target_return": target, "episode_returns": returns, "seed_means": several, "interval": [0, 30], **values}


def report(path, means, seeds=None, targets=None, **values):
    """Write the report of one policy, or of one per mean."""
    seeds = seeds or (list(range(len(means))) if len(means) > 1 else [])
    content = {
        "env_id": "Here-v0",
        "policy": [f"{path}{seed}" for seed in seeds] or str(path),
        "seed": 7,
        "num_episodes": 4,
        "training_seeds": seeds,
        "targets": [entry(means)] if targets is None else targets,
        **values,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def sides(tmp_path):
    return {name: report(tmp_path / f"{name}.json", means) for name, means in {"a": A, "b": B, "c": NOISE}.items()}


def compared(tmp_path, *words):
    """Return what a comparison that succeeds writes."""
    assert main(["compare", *map(str, words), "--json", str(tmp_path / "out.json")]) == 0
    return json.loads((tmp_path / "out.json").read_text())


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["compare", *map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("paired", [False, True])
def test_difference_interval_and_p_value_are_those_of_scipy(sides, tmp_path, paired):
    found = compared(tmp_path, sides["a"], sides["b"], *["--paired"] * paired)
    (one,) = found["differences"]
    test = stats.ttest_rel(B, A) if paired else stats.ttest_ind(B, A, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert one["difference"] == pytest.approx(np.mean(B) - np.mean(A))
    assert one["interval"] == pytest.approx([interval.low, interval.high])
    assert one["p_value"] == pytest.approx(test.pvalue)
    assert one["verdict"] == "better"
    assert found["unit"] == "training_seeds"
    assert [side["mean"] for side in found["rows"]] == pytest.approx([np.mean(A), np.mean(B)])
    assert found["rows"][0]["interval"] == pytest.approx([mean_interval(A).low, mean_interval(A).high])


@pytest.mark.parametrize("paired", [False, True])
def test_swapping_the_sides_flips_the_sign_and_the_verdict(sides, tmp_path, paired):
    (one,) = compared(tmp_path, sides["a"], sides["b"], *["--paired"] * paired)["differences"]
    (other,) = compared(tmp_path, sides["b"], sides["a"], *["--paired"] * paired)["differences"]
    assert other["difference"] == pytest.approx(-one["difference"])
    assert other["interval"] == pytest.approx([-one["interval"][1], -one["interval"][0]])
    assert (one["verdict"], other["verdict"]) == ("better", "worse")
    assert one["p_value"] == pytest.approx(other["p_value"])
    assert one["seeds_to_settle"] == other["seeds_to_settle"]


def test_several_comparisons_are_corrected_and_say_so(tmp_path, capsys):
    files = [report(tmp_path / f"{i}.json", [value + shift for value in A]) for i, shift in enumerate((0, 2.4, 2.5))]
    alone = compared(tmp_path, files[0], files[1])["differences"][0]
    assert alone["verdict"] == "better"
    assert "Holm" not in capsys.readouterr().out
    found = compared(tmp_path, *files)
    both = found["differences"]
    # The larger p-value stays, and the smaller one is doubled, or at least the larger one.
    p_values = [stats.ttest_ind(np.add(A, shift), A, equal_var=False).pvalue for shift in (2.4, 2.5)]
    smaller = 2 * p_values[1]
    assert [one["p_value"] for one in both] == pytest.approx([max(smaller, p_values[0]), smaller])
    assert p_values[0] < 0.05 < smaller
    assert [one["verdict"] for one in both] == ["not established"] * 2
    assert both[0]["interval"][0] > 0  # the interval is that of one comparison, as the text says
    assert found["correction"] == "holm"
    assert "Holm's correction for 2 comparisons" in capsys.readouterr().out


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("paired", [False, True])
def test_so_many_values_settle_it_and_one_less_does_not(paired, shift):
    """Values of the same mean and variance, once as many as are needed and once one less."""
    side = np.add(NOISE, shift)
    needed = values_needed(side, A, paired=paired)
    assert needed is not None
    assert needed > 2

    def p_value(count):
        if paired:
            difference = np.subtract(side, A)
            t = difference.mean() / (difference.std(ddof=1) / np.sqrt(count))
            return 2 * stats.t.sf(t, count - 1)
        moments = [(np.mean(one), np.std(one, ddof=1), count) for one in (side, A)]
        return stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue

    assert p_value(needed) < 0.05 < p_value(needed - 1)
    assert values_needed([0.0, 10.0, 0.001], [10.0, 0.0, 0.0], paired=paired) is None  # beyond MOST_VALUES


def test_the_text_says_how_many_seeds_would_settle_it(sides, tmp_path, capsys):
    (one,) = compared(tmp_path, sides["a"], sides["c"])["differences"]
    assert one["verdict"] == "not established"
    assert f"{one['seeds_to_settle']} training seeds per side would settle it" in capsys.readouterr().out
    close = report(tmp_path / "close.json", [10.01, 12.0, 11.0, 13.0, 9.0])
    (one,) = compared(tmp_path, sides["a"], close)["differences"]
    assert one["seeds_to_settle"] is None
    assert f"not in sight: more than {MOST_VALUES:,} training seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shift", "margin", "verdict", "established"),
    [
        (0.0, 5.0, "not worse", True),
        (0.0, 0.1, "not established", None),
        (4.0, 5.0, "better", True),
        (-4.0, 9.0, "worse", True),
        (-4.0, 4.0, "worse", None),
        (-9.0, 4.0, "worse", False),
    ],
)
def test_a_margin_is_judged_as_in_the_experiments(tmp_path, shift, margin, verdict, established):
    first = report(tmp_path / "a.json", A)
    other = report(tmp_path / "b.json", [value + shift for value in A])
    (one,) = compared(tmp_path, first, other, "--margin", margin)["differences"]
    assert (one["verdict"], one["not_worse"]) == (verdict, established)
    assert one["not_worse"] is not_worse({"mean": one["difference"], "interval": one["interval"]}, margin).holds


def test_single_runs_are_compared_over_episodes_and_the_output_says_so(tmp_path, capsys):
    one = report(tmp_path / "a/report.json", [10.0])
    report(tmp_path / "b/report.json", [10.5], targets=[entry([10.5], episodes=4)])
    found = compared(tmp_path, one, tmp_path / "b")
    assert found["unit"] == "episodes"
    assert [side["count"] for side in found["rows"]] == [4, 4]
    assert found["rows"][0]["interval"] == [0, 30]  # the report's own
    assert "episodes say nothing about other training seeds" in capsys.readouterr().out
    # All episodes differ by the same number, so no spread says how far others would be from it.
    found = compared(tmp_path, one, tmp_path / "b", "--paired")
    assert found["differences"][0]["interval"] is found["differences"][0]["p_value"] is None
    assert found["differences"][0]["verdict"] == "not established"


def test_a_folder_of_seeds_equals_the_report_of_its_evaluation(tmp_path, sides):
    for seed, mean in enumerate(A):
        report(tmp_path / f"runs/seed-{seed}/report.json", [mean])
    folder = compared(tmp_path, sides["b"], tmp_path / "runs")
    file = compared(tmp_path, sides["b"], sides["a"])
    ignored = {"name", "a"}
    for one, other in zip(folder["differences"] + folder["rows"], file["differences"] + file["rows"], strict=True):
        assert {k: v for k, v in one.items() if k not in ignored} == {
            k: v if not isinstance(v, float) else pytest.approx(v) for k, v in other.items() if k not in ignored
        }


def test_pairs_are_formed_by_seed_and_not_by_position(tmp_path, sides):
    turned = report(tmp_path / "turned.json", B[::-1], seeds=[4, 3, 2, 1, 0])
    found, expected = (compared(tmp_path, sides["a"], side, "--paired") for side in (turned, sides["b"]))
    assert found["differences"][0]["interval"] == expected["differences"][0]["interval"]


def test_one_run_against_seeds_has_no_interval(tmp_path, sides, capsys):
    one = report(tmp_path / "one.json", [50.0])
    found = compared(tmp_path, sides["a"], one)
    (difference,) = found["differences"]
    assert found["unit"] == "training_seeds"
    assert difference["difference"] == pytest.approx(39)
    assert difference["interval"] is difference["p_value"] is difference["seeds_to_settle"] is None
    assert difference["verdict"] == "not established"
    text = capsys.readouterr().out
    assert "+39, no interval (unpaired, Welch): not established" in text
    assert "has no interval: it has only one training seed" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"env_id": "There-v0"}, "env_id is 'There-v0', and 'Here-v0'"),
        ({"env_kwargs": {"size": 2}}, "env_kwargs is {'size': 2}, and {}"),
        ({"wrappers": ["ClipReward"]}, "wrappers is ['ClipReward'], and []"),
        ({"seed": 8}, "seed is 8, and 7"),
        ({"num_episodes": 2, "targets": [entry(B, episodes=2)]}, "num_episodes is 2, and 4"),
        ({"targets": [entry(B, target=4.0)]}, "target_return is 4.0, and 3.0"),
        ({"targets": [entry(B, target_unit="next 3")]}, "target_unit is 'next 3', and None"),
        ({"targets": [entry(B, targets={"cost_to_go": 5})]}, "targets is {'cost_to_go': 5}, and None"),
        ({"targets": [entry(B), entry(B, target=4.0)]}, "has several target returns: 3 4"),
        ({"max_steps": 9, "targets": [entry(B, truncated_by_limit=1)]}, "max_steps is 9, and None"),
        ({"policy": ["same"] * 5}, "two training seeds hold the same policy"),
        ({"training_seeds": [0, 1]}, "episode_returns is missing or wrong"),
        ({"targets": []}, "targets is missing or wrong"),
        ({"targets": [entry([*B[:4], 1e200])]}, "episode_returns is missing or wrong"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, sides, capsys, values, message):
    assert message in refused(capsys, sides["a"], report(tmp_path / "other.json", B, **values))


def test_wrong_arguments_are_refused(tmp_path, sides, capsys):
    a, b = sides["a"], sides["b"]
    others = report(tmp_path / "others.json", B, seeds=[5, 6, 7, 8, 9])
    assert "there is nothing to compare" in refused(capsys, a)
    assert "--margin: is -1" in refused(capsys, a, b, "--margin", "-1")
    assert "others.json has the training seeds 5, 6, 7, 8, 9" in refused(capsys, a, others, "--paired")
    assert "has no target return 5, only 3" in refused(capsys, a, b, "--target-return", "5")
    assert "no such file" in refused(capsys, a, tmp_path / "nowhere.json")
    (tmp_path / "runs/seed-0").mkdir(parents=True)
    assert "rlt evaluate" in refused(capsys, a, tmp_path / "runs")
    report(tmp_path / "runs/seed-0/report.json", [1.0])
    report(tmp_path / "runs/report.json", B)
    assert "next to folders of seeds" in refused(capsys, a, tmp_path / "runs")
    assert "does not end with .png" in refused(capsys, a, b, "--figure", tmp_path / "x.pdf")
    free = report(tmp_path / "free.json", B, targets=[entry(B, target=None)])
    assert "no policy here takes a target" in refused(capsys, free, free, "--target-return", "3")


def test_a_policy_without_target_is_compared_at_any_and_named(tmp_path, sides, capsys):
    both = report(tmp_path / "both.json", A, targets=[entry(A), entry(NOISE, target=4.0)])
    free = report(tmp_path / "free.json", B, targets=[entry(B, target=None)])
    found = compared(tmp_path, both, free, "--target-return", 4)
    assert found["target_return"] == 4
    assert found["differences"][0]["difference"] == pytest.approx(np.mean(B) - np.mean(NOISE))
    assert f"takes no target return: {free}" in capsys.readouterr().out


def test_csv_and_latex_parse_back_and_the_figure_is_drawn(tmp_path, sides):
    odd = report(tmp_path / "50%_of, the_data & #1~.json", NOISE)
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "latex", "figure")}
    files["figure"] = tmp_path / "out.png"
    words = [word for name, file in files.items() for word in (f"--{name}", file)]
    found = compared(tmp_path, sides["a"], sides["b"], odd, *words)
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [row["name"] for row in rows] == [str(sides["a"]), str(sides["b"]), str(odd)]
    assert [float(row["mean"]) for row in rows] == [side["mean"] for side in found["rows"]]
    assert rows[0]["difference"] == rows[0]["verdict"] == ""
    for row, one in zip(rows[1:], found["differences"], strict=True):
        assert [float(row["difference_low"]), float(row["difference_high"])] == one["interval"]
        assert float(row["p_value"]) == one["p_value"]
        assert row["verdict"] == one["verdict"]
    lines = [line.removesuffix(r" \\") for line in files["latex"].read_text().splitlines() if line.endswith(r"\\")]
    cells = [re.split(r" (?<!\\)& ", line) for line in lines]
    assert {len(row) for row in cells} == {6}
    assert cells[3][0] == str(odd).replace("%", r"\%").replace("_", r"\_").replace("&", r"\&").replace(
        "#", r"\#"
    ).replace("~", r"\textasciitilde{}")
    assert [row[-1] for row in cells[2:]] == [one["verdict"] for one in found["differences"]]
    low, high = found["differences"][1]["interval"]
    assert cells[3][3].replace("$-$", "-").split("[")[1] == f"{low:+.3g}, {high:+.3g}]"
    assert files["figure"].read_bytes().startswith(b"\x89PNG")


def test_every_field_of_a_comparison_is_documented(tmp_path, sides):
    page = (ROOT / "docs/reference/metrics.md").read_text().partition("## rlt compare --json")[2].partition("\n## ")[0]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    columns = [line.split("|")[1 if "one entry per side:" not in line else slice(1, None)] for line in rows]
    named = set(re.findall(r"`(\w+)`", " ".join(map(str, columns))))
    found = compared(tmp_path, sides["a"], sides["b"])
    assert named == {*found, *found["rows"][0], *found["differences"][0]}
