"""Claims about a messy export: every message and guess on the way from a file to a policy names a next step that works."""

import datetime
import shlex

import numpy as np
import pyarrow as pa
import pytest
import yaml

from rl_transformer import RLTransformerError, load_policy
from rl_transformer.cli.convert import make_parser, run
from rl_transformer.cli.main import main
from rl_transformer.trajectories.open import open_trajectories, read_trajectories
from rl_transformer.trajectories.tables.inputs import memory_input
from rl_transformer.trajectories.tables.mapping import ColumnMapping
from rl_transformer.trajectories.tables.suggest import suggest_mapping

FIRST_ID = 2**53 + 1  # float64 cannot hold it
HEADER = ["Kunden-Nr.", "Zeitpunkt", "Filiale", "Außentemperatur °C", "Rabatt", "Umsatz (€)"]


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Visits with times of several zones, nulls, rows written twice, accents, large ids and decimal commas."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = []
    for customer in range(30):
        moment = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC) + datetime.timedelta(days=customer)
        for _ in range(int(random.integers(4, 9))):
            moment += datetime.timedelta(hours=float(random.exponential(20)))
            zone = datetime.timezone(datetime.timedelta(hours=int(random.integers(3))))
            values = (random.normal(12, 6), random.exponential(8))
            temperature, revenue = (f"{value:.2f}".replace(".", ",") for value in values)
            branch = ["Süd", "Café Größe", ""][random.integers(3)]
            temperature = "NA" if random.random() < 0.05 else temperature
            row = [str(FIRST_ID + customer), moment.astimezone(zone).isoformat(timespec="seconds"), branch, temperature]
            rows.append([*row, ["klein", "mittel", "groß"][random.integers(3)], revenue])
    rows += rows[:5]
    random.shuffle(rows)
    text = "\n".join(";".join(row) for row in [HEADER, *rows])
    (tmp_path / "Verkäufe 2026.csv").write_text(text + "\n", encoding="utf-8")
    return rows


def suggestion(capsys):
    assert main(["convert", "csv:Verkäufe 2026.csv", "--suggest"]) == 0
    return capsys.readouterr().out


def test_a_table_without_its_scheme_is_answered_with_its_uri(export):
    with pytest.raises(RLTransformerError, match="is a table, not a store") as caught:
        read_trajectories("Verkäufe 2026.csv")
    assert "csv:Verkäufe 2026.csv" in caught.value.fix


def test_the_suggestion_knows_large_ids_and_decimal_commas(export, capsys):
    text = suggestion(capsys)
    mapping = yaml.safe_load(text)
    assert mapping["episode"] == ["Kunden-Nr."]
    assert mapping["order"] == "Zeitpunkt"
    assert mapping["observe"] == ["Außentemperatur °C", "Umsatz (€)"]
    assert mapping["types"] == dict.fromkeys(mapping["observe"], "decimal_comma")
    assert "reward: no column was recognized; name one, and take it out" in text


def visits(num_customers=40, *, interleaved=False):
    """Rows of sessions of customers, under names that no pattern knows, in the order of the sessions or of time."""
    random = np.random.default_rng(0)
    rows = []
    for customer in range(num_customers):
        for session in range(int(random.integers(1, 4))):
            begin = int(random.integers(10_000))
            rows += [
                [
                    f"k{customer:03d}",
                    f"s{customer:03d}-{session}",
                    60 * (begin + i),
                    f"{random.normal():.3f}",
                    "ab"[i % 2],
                ]
                for i in range(int(random.integers(3, 7)))
            ]
    return sorted(rows, key=lambda row: row[2]) if interleaved else rows


def write_visits(path, rows):
    lines = [["Kunde", "Sitzung", "Sekunde", "Laune", "Anzeige"], *rows]
    path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n", encoding="utf-8")


def test_ids_whose_rows_follow_one_another_are_suggested_as_episodes_below_their_owner(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_visits(tmp_path / "visits.csv", visits())
    assert main(["convert", "csv:visits.csv", "--suggest"]) == 0
    text = capsys.readouterr().out
    mapping = yaml.safe_load(text)
    assert mapping["episode"] == ["Kunde", "Sitzung"]
    assert mapping["categorical"] == ["Anzeige"]
    assert "each has one Kunde" in text
    # The suggestion, followed: no customer is on both sides of a split.
    mapping |= {"action": "Anzeige", "order": "Sekunde", "observe": ["Laune"], "categorical": [], "keep": ["Kunde"]}
    (tmp_path / "visits.yaml").write_text(yaml.safe_dump(mapping))
    convert = ["convert", "csv:visits.csv", "--mapping", "visits.yaml", "--output", "visits", "--split", "entity:0.3"]
    assert main(convert) == 0
    assert "(by Kunde)" in capsys.readouterr().out
    parts = [open_trajectories(uri) for uri in ("rlt:visits", "rlt:visits-held-out")]
    customers = [set(np.asarray(part.columns["Kunde"]).tolist()) for part in parts]
    assert all(customers)
    assert not customers[0] & customers[1]


def test_ids_whose_rows_are_scattered_are_not_taken_for_episodes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Products of a shop look the same as sessions in the order of time.
    write_visits(tmp_path / "visits.csv", visits(interleaved=True))
    assert main(["convert", "csv:visits.csv", "--suggest"]) == 0
    text = capsys.readouterr().out
    assert "episode" not in yaml.safe_load(text)
    assert "# episode: no column was recognized; name one" in text


def test_a_table_with_lists_gets_a_suggestion():
    table = pa.table({"user": ["a", "a", "b", "b"], "seen": [[1.0, 2.0]] * 4, "action": [0, 1, 0, 1]})
    suggestion = suggest_mapping(memory_input(table, where="log"))
    assert suggestion.mapping.observe == ("seen",)
    assert suggestion.mapping.episode == ("user",)


def test_an_entity_in_a_mapping_is_answered_with_its_place(export):
    with pytest.raises(RLTransformerError, match="no field 'entity'") as caught:
        ColumnMapping.from_values({"entity": "Kunde"}, where="laden.yaml")
    assert "first in episode" in caught.value.fix


def test_the_export_becomes_a_policy_whose_next_step_is_the_verdict(export, capsys):
    mapping = yaml.safe_load(suggestion(capsys))
    mapping |= {
        "action": "Rabatt",
        "reward": "Umsatz (€)",
        "observe": ["Außentemperatur °C"],
        "categorical": ["Filiale"],
    }
    mapping |= {"split": "entity:0.4", "keep": ["Kunden-Nr."]}
    with open("laden.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(mapping, file, allow_unicode=True)
    assert main(["convert", "csv:Verkäufe 2026.csv", "--mapping", "laden.yaml", "--output", "laden"]) == 0
    assert "dropped 5: same as another row" in capsys.readouterr().out
    parts = [open_trajectories(uri) for uri in ("rlt:laden", "rlt:laden-held-out")]
    without = {tuple(row) for row in export if row[3] != "NA"}
    revenue = sorted(float(row[5].replace(",", ".")) for row in without)
    np.testing.assert_allclose(sorted(np.concatenate([part.rewards for part in parts])), revenue)
    kept = {int(number) for part in parts for number in part.columns["Kunden-Nr."]}
    assert kept == {int(row[0]) for row in without}
    small = ["--model.hidden_size", "8", "--model.n_layer", "1", "--model.n_head", "1", "--training.threads", "1"]
    short = ["--train-steps", "2", "--training.batch_size", "4"]
    assert main(["train", "fast", "--data", "rlt:laden", "--output", "run", *small, *short]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert shlex.split(line)[1:] == ["rlt", "judge", "run", "--data", "rlt:laden-held-out"]
    session = load_policy("run").session(target_return=50.0)
    row = {"Außentemperatur °C": 3.5, "Filiale": "Café Größe"}
    assert session.act_row(row)["Rabatt"] in ("klein", "mittel", "groß")


def test_texts_where_numbers_are_needed_name_the_cure_that_works(export):
    options = ["--output", "laden", "--action", "Rabatt", "--observe", "Außen*"]
    parser = make_parser("rlt convert", None)
    with pytest.raises(RLTransformerError, match="holds string, not numbers") as caught:
        run(parser.parse_args(["csv:Verkäufe 2026.csv", *options]))
    cure = caught.value.fix.split("as in ")[1]
    with open("types.yaml", "w", encoding="utf-8") as file:
        file.write(cure)
    assert main(["convert", "csv:Verkäufe 2026.csv", *options, "--mapping", "types.yaml"]) == 0
