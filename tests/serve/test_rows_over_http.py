"""Claims about policies that learned from tables, over HTTP: they act on rows as they stand in the log."""

from tests.serve.servers import running
from tests.toys import point_data, untrained_policy
from tests.trajectories.tables.test_table_policies import shop, shop_log  # noqa: F401


def test_a_row_is_acted_on_as_in_a_session(shop):  # noqa: F811
    _, policy = shop
    local = policy.session(5.0, 0)
    with running(policy) as server:
        client = server.client()
        path = f"/v1/sessions/{client.open(5.0, 0)}"
        for row in shop_log().drop_columns("ts").to_pylist()[:6]:
            answer = client.call("POST", f"{path}/act", {"row": row, "return_info": True})
            action, info = local.act_row(row, return_info=True)
            assert (answer["action"], answer["info"]) == (action, info)
            client.call("POST", f"{path}/observe", {"reward": row["revenue"]})
            local.observe(row["revenue"])
        for wrong, where in (
            ({"row": {**row, "f_age": "old"}}, "f_age"),
            ({"row": {**row, "f_age": 10**299}}, "f_age"),
            ({"row": {**row, "mask_mid": 2}}, "mask_mid"),
            ({"row": {}}, "row"),
            ({"row": row, "allowed": [True]}, "row"),
        ):
            status, content = client.request("POST", f"{path}/act", wrong)
            assert (status, where in str(content["error"])) == (422, True), content


def test_a_policy_without_a_table_refuses_rows():
    with running(untrained_policy(point_data())) as server:
        client = server.client()
        status, content = client.request("POST", f"/v1/sessions/{client.open()}/act", {"row": {"x": 1}})
        assert (status, content["error"]["problem"]) == (422, "this policy did not learn from a table")
