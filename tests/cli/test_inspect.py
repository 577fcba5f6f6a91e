"""Claims about `rlt inspect`: its page holds no code of the data, and its options mean what they say."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rl_transformer import TrajectoryDataset
from rl_transformer.cli.main import main
from rl_transformer.evaluation.data_page import data_page
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.leakage import find_leakage
from rl_transformer.trajectories.splits import compare_splits
from tests.trajectories.generated_sets import clinic, dataset, linear_system, with_feature

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "--><svg onload=alert(1)>",
    "$\\frac{1}{0}$ $",
    "a\nb\x00\u202e" + "x" * 300,
    "&lt;b&gt;",
]


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags = set()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags_of(page):
    parser = Tags()
    parser.feed(page)
    return parser


def hostile_table(names=HOSTILE):
    random = np.random.default_rng(0)
    rows = 400
    table = {name: random.normal(size=rows) for name in names}
    table |= {
        "who": np.repeat(np.arange(20), 20),
        names[0] + "!": random.integers(0, 3, rows),
        "r": random.normal(size=rows),
    }
    return TrajectoryDataset.from_columns(
        table, episode=["who"], observe=list(names), action=names[0] + "!", reward="r", source=names[0]
    )


def test_names_from_the_data_are_text_on_the_page():
    data = hostile_table()
    named = [Finding("warning", name, name, name, name, 1, [{name: 3}]) for name in HOSTILE]
    page = data_page(data, named, data, named)
    found = tags_of(page)
    assert not found.tags & {"script", "svg", "iframe", "object", "link", "a", "form"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.tags >= {"table", "figure", "img", "style"}
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert set(re.findall(r'src="(.{5})', page)) == {"data:"}
    assert "http" not in re.sub(r"base64,[^\"]*", "", page).replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_the_page_shows_the_findings_with_cure_and_figures(tmp_path):
    train = dataset(with_feature(linear_system(0), lambda e: e["rewards"]))
    test = dataset(with_feature(linear_system(0, "random", count=30), lambda e: e["rewards"]))
    page = data_page(train, find_leakage(train), test, compare_splits(train, test))
    for text in (
        "reward among the observations",
        "behavior drift",
        "--fix:",
        "feature 5",
        "Drift",
        "Support of actions",
    ):
        assert text in page
    assert page.count("<figure>") == 5
    discrete = dataset(clinic(0))
    assert "Share of each discrete action" in data_page(discrete)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_page_of_data_with_errors_can_be_drawn(bad):
    from tests.trajectories.planted_defects import clean_episodes, write

    episodes = clean_episodes(0)
    episodes[0]["observations"][2, 1] = bad
    episodes[1]["rewards"][2] = bad
    assert "Training would refuse this data: 2 kinds of errors" in data_page(write(episodes, "arrays", None))
    for episode in episodes:
        episode["observations"][:] = bad
    assert "Training would refuse" in data_page(write(episodes, "arrays", None))


def test_one_call_writes_page_comparison_and_cure(tmp_path, capsys):
    episodes = linear_system(0, count=60)
    dataset(episodes[:30]).save(tmp_path / "train")
    dataset([*episodes[30:], episodes[0]]).save(tmp_path / "test")
    train, test = f"rlt:{tmp_path / 'train'}", f"rlt:{tmp_path / 'test'}"
    page, file = tmp_path / "pages" / "page.html", tmp_path / "result.json"
    words = [
        "inspect",
        train,
        "--against",
        test,
        "--html",
        str(page),
        "--json",
        str(file),
        "--fix",
        str(tmp_path / "c"),
    ]
    assert main(words) == 2  # an episode lies in both
    printed = capsys.readouterr().out
    assert "ERROR: shared episodes" in printed
    assert "30 of 30 episodes" in printed
    result = json.loads(file.read_text())
    assert [f["kind"] for f in result["against"]["findings"] if f["level"] == "error"] == ["shared episodes"]
    assert result["fixed"]["episodes_out"] == 30
    assert result["leakage"] == []
    assert "shared episodes" in page.read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "no data is named"),
        (["DATA", "--entity", "user"], "is for comparing"),
        (["DATA", "--html", "page.pdf"], "does not end with .html"),
        (["DATA", "--against", "rlt:nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(words, problem, tmp_path, capsys):
    dataset(linear_system(0, count=4)).save(tmp_path / "s")
    assert main(["inspect", *(f"rlt:{tmp_path / 's'}" if w == "DATA" else w for w in words)]) == 2
    assert problem in capsys.readouterr().err
