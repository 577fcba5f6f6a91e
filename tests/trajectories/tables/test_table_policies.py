"""Claims about policies that learned from tables: categories, allowed actions, rows, splits, and the command."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.training.losses import action_loss
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.tables.inputs import memory_input
from rl_transformer.trajectories.tables.mapping import ColumnMapping
from rl_transformer.trajectories.tables.suggest import as_yaml, suggest_mapping
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import telling_data, tiny_config

SHOP = {
    "episode": "user", "order": "ts", "gap": "3d", "observe": "f_*", "categorical": "segment,item", "action": "price",
    "allowed": "mask_*", "reward": "revenue", "terminated": "churned",
}  # fmt: skip
PRICES = ["high", "low", "mid"]


def shop_log(num_rows: int = 600, seed: int = 0) -> pa.Table:
    """Visits of customers: a price is chosen among those that are allowed."""
    random = np.random.default_rng(seed)
    allowed = random.random((num_rows, 3)) < 0.6
    chosen = random.integers(0, 3, num_rows)
    allowed[np.arange(num_rows), chosen] = True
    minutes = np.sort(random.integers(0, 60 * 24 * 40, num_rows))
    return pa.table(
        {
            "user": [f"u{i}" for i in random.integers(0, 20, num_rows)],
            "ts": pa.array(np.datetime64("2026-05-01", "s") + minutes.astype("timedelta64[m]")),
            "f_age": random.normal(40, 10, num_rows),
            "f_cart": random.integers(0, 9, num_rows),
            "segment": pa.array(np.array(["new", "loyal"])[random.integers(0, 2, num_rows)]).dictionary_encode(),
            "item": random.integers(0, 3000, num_rows),
            "price": np.array(PRICES)[chosen],
            **{f"mask_{price}": allowed[:, i] for i, price in enumerate(PRICES)},
            "revenue": random.exponential(size=num_rows),
            "churned": random.random(num_rows) < 0.02,
        }
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop's data, and a policy that learned from it."""
    data = TrajectoryDataset.from_columns(shop_log(), **SHOP)
    config = tiny_config(tmp_path_factory.mktemp("shop") / "run", training={"train_steps": 3})
    return data, load_policy(train(config, dataset=data))


def test_categories_are_indices_with_a_place_for_unknown_ones(shop):
    data, _ = shop
    space = dict(data.spec.observation_space.parts)
    assert str(space["segment"]) == "3 discrete"
    items = dict(data.spec.table.categories)["item"]
    assert list(items) == sorted(set(shop_log()["item"].to_pylist()))
    assert space["item"].n == len(items) + 1
    assert not [finding for finding in data.findings if finding.kind == "constant feature"]
    again = DataSpec.from_dict(json.loads(json.dumps(data.spec.to_dict())), where="test")
    assert again == data.spec


def test_a_column_of_many_categories_takes_one_number_per_step():
    size = 5000
    columns = {"id": np.arange(size) % 2500, "x": np.ones(size), "a": np.zeros(size)}
    data = TrajectoryDataset.from_columns(columns, observe="x", categorical="id", action="a")
    assert data.observations.shape == (size, 2)
    assert data.observations[:3].tolist() == [[1, 1], [1, 2], [1, 3]]


def test_a_row_of_the_log_is_acted_on_like_the_observation_it_became(shop):
    _data, policy = shop
    log = shop_log().to_pylist()
    by_row = policy.session(target_return=5.0, seed=0)
    by_observation = policy.session(target_return=5.0, seed=0)
    table = policy.spec.data.table
    for row in log[:12]:
        observed = table.observation(row)
        allowed = table.allowed_actions(row)
        action = by_observation.act(observed, allowed)
        named = by_row.act_row(row)
        assert named == {"price": table.action_values[0][action]}
        assert row[f"mask_{named['price']}"]
        by_row.observe(row["revenue"])
        by_observation.observe(row["revenue"])


def test_the_observation_of_a_row_is_that_of_the_data(shop):
    data, _ = shop
    space = data.spec.observation_space
    for row in shop_log().to_pylist()[:50]:
        (step,) = np.flatnonzero(data.observations[:, 0] == np.float32(row["f_age"]))
        seen = space.flatten(stack([data.spec.table.observation(row)]))[0]
        assert seen.tolist() == data.observations[step].tolist()


def test_unknown_and_missing_categories_are_the_same_unknown_one(shop):
    _, policy = shop
    row = shop_log().to_pylist()[0]
    table = policy.spec.data.table
    for value in ("a new segment", None, float("nan"), 7):
        assert table.observation({**row, "segment": value})["segment"] == 0
    assert table.observation(row)["segment"] > 0
    assert set(policy.session(target_return=1.0).act_row({**row, "segment": "a new one"})) == {"price"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f_age": None}, "f_age: is None, not one number"),
        ({"f_age": "old"}, "f_age: is 'old', not one number"),
        ({"mask_low": 2}, "mask_low: is 2"),
        ({"segment": ...}, "has no 'segment'"),
        ({"f_cart": ...}, "has no 'f_cart'"),
        ({"mask_mid": ...}, "has no 'mask_mid'"),
        (dict.fromkeys(("mask_low", "mask_mid", "mask_high"), False), "allowed"),
    ],
)
def test_a_row_that_lacks_something_is_refused_by_column(shop, change, message):
    _, policy = shop
    row = {**shop_log().to_pylist()[0], **change}
    with pytest.raises(RLTransformerError, match=message):
        policy.session(target_return=1.0).act_row({k: v for k, v in row.items() if v is not ...})


def test_a_policy_of_other_data_takes_no_rows(tmp_path):
    policy = load_policy(train(tiny_config(tmp_path / "run", training={"train_steps": 1}), dataset=telling_data()))
    with pytest.raises(RLTransformerError, match="did not learn from a table"):
        policy.session(target_return=1.0).act_row({})


def test_only_allowed_actions_are_learned(shop):
    data, policy = shop
    assert data.action_masks.shape == (data.num_steps, 3)
    head = policy.model.predict_action
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.from_numpy(data.action_masks[:8]).reshape(2, 4, 3)
    actions = torch.from_numpy(np.asarray(data.actions[:8])).reshape(2, 4)
    valid = torch.ones(2, 4, dtype=torch.bool)
    empty = torch.zeros(2, 4, 0)
    batch = WindowBatch(empty, actions, empty, actions, valid, masks)
    expected = []
    for logit, action, mask in zip(logits.reshape(8, 3), actions.reshape(8), masks.reshape(8, 3), strict=True):
        expected.append(logit[mask].logsumexp(0) - logit[action])
    loss = action_loss(policy.model, batch, parameters=logits)
    assert head.num_allowed == 3
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    free = action_loss(policy.model, WindowBatch(empty, actions, empty, actions, valid), parameters=logits)
    assert free > loss


def test_masks_are_gathered_with_their_steps(shop):
    data, policy = shop
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 3, policy.device)
    episode = int(np.argmax(data.lengths))
    row = int(data.offsets[episode])
    batch = gatherer.gather(WindowIndex(np.array([row + 1]), np.array([episode])))
    steps = np.minimum(row + 1 + np.arange(3), data.offsets[episode + 1] - 1)
    assert batch.allowed[0].tolist() == data.action_masks[steps].tolist()


def test_an_action_that_was_not_allowed_is_dropped_from_a_table_and_refused_elsewhere():
    table = shop_log()
    index = table.schema.get_field_index("mask_low")
    never = table.set_column(index, "mask_low", pa.array([False] * len(table)))
    data = TrajectoryDataset.from_columns(never, **SHOP)
    low = PRICES.index("low")
    assert not (data.actions == low).any()
    (note,) = [finding for finding in data.findings if finding.kind == "rows in no episode"]
    assert "action that was not allowed" in note.problem
    assert note.count == table["price"].to_pylist().count("low")
    episode = {"observations": np.zeros((3, 1)), "actions": [0, 1, 0], "rewards": [0.0, 1, 0]}
    with pytest.raises(RLTransformerError, match=r"illegal action.*episode 0, step 1|step 1"):
        TrajectoryDataset.from_episodes([{**episode, "allowed": np.array([[1, 1], [1, 0], [1, 1]], bool)}])


def convert(tmp_path, *options, table=None):
    """Run `rlt convert` on the shop's log, and return its JSON."""
    pq.write_table(shop_log() if table is None else table, tmp_path / "log.parquet")
    words = [word for name, value in SHOP.items() for word in (f"--{name}", *value.split(","))]
    json_file = tmp_path / "account.json"
    code = main(
        ["convert", f"parquet:{tmp_path / 'log.parquet'}", *words, "--output", str(tmp_path / "store"),
         "--json", str(json_file), *options]
    )  # fmt: skip
    assert code == 0
    return json.loads(json_file.read_text())


def test_the_command_writes_the_data_and_an_account_of_every_row(tmp_path, capsys):
    account = convert(tmp_path)
    data = TrajectoryDataset.from_columns(shop_log(), **SHOP)
    assert account["fingerprint"] == data.fingerprint
    assert (account["rows_in"], account["steps_out"], account["episodes"]) == (600, data.num_steps, len(data))
    assert account["rows_dropped"] == {}
    assert account["seconds"] > 0
    stored = open_trajectories(f"rlt:{tmp_path / 'store'}")
    assert stored.spec.table == data.spec.table
    assert "600 rows: 600 steps, 0 dropped" in capsys.readouterr().out


def test_a_split_by_time_learns_nothing_from_later_rows(tmp_path):
    account = convert(tmp_path, "--split", "time:2026-05-25")
    kept = open_trajectories(f"rlt:{tmp_path / 'store'}")
    held_out = open_trajectories(f"rlt:{tmp_path / 'store-held-out'}")
    assert account["rows_in"] == kept.num_steps + held_out.num_steps
    assert account["held_out_steps"] == held_out.num_steps > 100
    rows = shop_log().to_pylist()
    early = {row["item"] for row in rows if row["ts"].isoformat() < "2026-05-25"}
    assert set(dict(kept.spec.table.categories)["item"]) == early
    assert kept.spec.table == held_out.spec.table
    ages = {np.float32(row["f_age"]) for row in rows if row["ts"].isoformat() >= "2026-05-25"}
    assert not ages & set(kept.observations[:, 0].tolist())


def test_a_split_by_entity_has_every_customer_on_one_side(tmp_path):
    convert(tmp_path, "--split", "entity:0.3")
    users = {np.float32(row["f_age"]): row["user"] for row in shop_log().to_pylist()}
    sides = [
        {users[age] for age in open_trajectories(f"rlt:{tmp_path / name}").observations[:, 0].tolist()}
        for name in ("store", "store-held-out")
    ]
    assert sides[0] | sides[1] == set(users.values())
    assert not sides[0] & sides[1]
    assert 1 <= len(sides[1]) < 14


def test_a_held_out_action_may_be_larger_than_those_learned_from(tmp_path):
    table = pa.table({"t": range(8), "e": [0, 0, 1, 1, 2, 2, 3, 3], "x": [0.0] * 8, "a": [1.0, 2, 3, 4, 5, 6, 7, 80]})
    pq.write_table(table, tmp_path / "log.parquet")
    words = ["--episode", "e", "--order", "t", "--observe", "x", "--action", "a", "--output", str(tmp_path / "s")]
    words = ["convert", f"parquet:{tmp_path / 'log.parquet'}", *words]
    assert main([*words, "--split", "time:6"]) == 0
    assert open_trajectories(f"rlt:{tmp_path / 's-held-out'}").actions.max() == 80


def test_a_split_that_holds_nothing_out_is_refused(tmp_path, capsys):
    pq.write_table(pa.table({"t": range(4), "x": [0.0] * 4, "a": [0, 1, 0, 1]}), tmp_path / "log.parquet")
    words = ["--order", "t", "--observe", "x", "--action", "a", "--output", str(tmp_path / "s"), "--split"]
    words = ["convert", f"parquet:{tmp_path / 'log.parquet'}", *words]
    assert main([*words, "time:100"]) == 2
    assert "no episode is held out" in capsys.readouterr().err
    assert main([*words, "time:0"]) == 2
    assert not (tmp_path / "s").exists()


def test_a_suggested_mapping_can_be_read_and_used(tmp_path):
    table = shop_log()
    suggestion = suggest_mapping(memory_input(table, where="log"))
    assert suggestion.mapping.episode == ("user",)
    assert suggestion.mapping.order == "ts"
    assert suggestion.mapping.reward == "revenue"
    assert suggestion.mapping.allowed == "mask_*"
    assert {"f_age", "f_cart"} <= set(suggestion.mapping.observe)
    assert "segment" in suggestion.mapping.categorical
    (tmp_path / "logs.yaml").write_text(as_yaml(suggestion))
    assert ColumnMapping.from_file(tmp_path / "logs.yaml") == suggestion.mapping
    pq.write_table(table, tmp_path / "log.parquet")
    uri = f"parquet:{tmp_path / 'log.parquet'}"
    assert main(["convert", uri, "--suggest"]) == 0
    words = ["--mapping", str(tmp_path / "logs.yaml"), "--action", "price", "--categorical", "segment"]
    assert main(["convert", uri, *words, "--output", str(tmp_path / "s")]) == 0
    assert open_trajectories(f"rlt:{tmp_path / 's'}").spec.table.action_values == (tuple(PRICES),)
    with pytest.raises(RLTransformerError, match="nothing says which of its columns is what"):
        open_trajectories(uri)
    (tmp_path / "m.yaml").write_text(json.dumps({**SHOP}))
    assert open_trajectories(f"{uri}?mapping={tmp_path / 'm.yaml'}").num_steps == 600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rlt:x", "--order", "ts", "--output", "o"], "--order: rlt: is not a table"),
        (["parquet:nowhere", "--output", "o"], "there is no such file"),
        (["csv:nowhere.csv", "--suggest"], "there is no such file"),
    ],
)
def test_options_and_tables_that_do_not_go_together_are_refused(words, message, capsys):
    assert main(["convert", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_csv_column_gets_the_type_that_its_mapping_says(tmp_path):
    (tmp_path / "log.csv").write_text("zip,x,a\n00123,1.0,0.5\nA77,2.0,0.25\n")
    (tmp_path / "m.yaml").write_text("observe: x\ncategorical: zip\naction: a\ntypes: {zip: string}\n")
    data = open_trajectories(f"csv:{tmp_path / 'log.csv'}?mapping={tmp_path / 'm.yaml'}")
    assert dict(data.spec.table.categories)["zip"] == ("00123", "A77")


def test_a_damaged_file_is_named(tmp_path):
    pq.write_table(shop_log(), tmp_path / "log.parquet")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[40:4000] = bytes(3960)
    (tmp_path / "log.parquet").write_bytes(content)
    (tmp_path / "m.yaml").write_text(json.dumps(SHOP))
    with pytest.raises(RLTransformerError, match=r"log\.parquet"):
        open_trajectories(f"parquet:{tmp_path / 'log.parquet'}?mapping={tmp_path / 'm.yaml'}")


@pytest.mark.parametrize("rows", [0, 2])
def test_actions_without_any_number_are_refused(rows):
    """Found by a fuzzer, as a KeyError: lists of actions that are all empty, or no row at all."""
    numbers = pa.list_(pa.float32())
    table = pa.table(
        {
            "visit": pa.array([0] * rows, pa.int64()),
            "dose": pa.array([[]] * rows, numbers),
            "pulse": pa.array([[1.0]] * rows, numbers),
            "gain": pa.array([0.5] * rows, pa.float64()),
        }
    )
    with pytest.raises(RLTransformerError, match="an action column holds no number"):
        TrajectoryDataset.from_columns(table, episode="visit", action=["dose"], observe=["pulse"], reward="gain")
