"""A fuzzer of everything that a client can send: no fault of the server, and no change by what is refused."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_transformer import RLTransformerError
from rl_transformer.policy.session_state import MAX_SEED
from rl_transformer.serve.arrays import unpack
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.messages import parse_body, read_act, read_outcome, read_start
from rl_transformer.serve.service import Service
from tests.policy.kinds import Episode

LIMITS = ServeLimits()
WORDS = [
    "observation",
    "allowed",
    "row",
    "outcome",
    "step",
    "return_info",
    "reward",
    "action",
    "outcomes",
    "cost",
    "seed",
]
WORDS += ["target_return", "targets", "cost_to_go", "policy", "sessions", "format_version", "state", "history"]
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, 2**64, 10**300, 10**400, -(10**400), MAX_SEED]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), inner, max_size=5),
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5)
KINDS = ["published", "two conditions", "discrete", "multi-discrete", "stacked images", "box of integers"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_body_is_a_fault_or_changes_a_session_that_it_is_refused_by(kind):
    episode = Episode(kind)
    service = Service(episode.policy, ServeLimits(max_sessions=10_000))
    start = read_start({"target_return": episode.target, "seed": 1, "targets": episode.targets})
    session = service.open(start)["session"]

    @settings(max_examples=300, deadline=None)
    @given(BODIES, st.sampled_from(["act", "observe", "open", "state"]), st.booleans())
    def send(body, route, is_right):
        if is_right:  # most of it, so that the rest is looked at
            outcome = {"reward": 0.5, "outcomes": episode.outcomes(0)}
            body = (
                {"observation": episode.observations[0].tolist(), "outcome": outcome} | body if route == "act" else body
            )
            body = outcome | body if route == "observe" else body
            body = service.state(session) | body if route == "state" else body
        before = service.state(session)
        refused = None
        try:
            if route == "act":
                (result,) = service.act([read_act(session, body)])
                if isinstance(result, RLTransformerError):
                    raise result
                assert np.isfinite(np.asarray(result["action"], float)).all()
            elif route == "observe":
                service.observe(session, read_outcome(body))
            elif route == "open":
                service.close(service.open(read_start(body))["session"])
            else:
                service.put_state(session, body)
        except RLTransformerError as error:
            refused = error
        assert refused is None or (refused.where and refused.fix)
        assert refused is None or service.state(session) == before, body
        json.dumps(service.state(session), allow_nan=False)

    send()


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(
    st.one_of(st.binary(max_size=200), VALUES.map(lambda value: json.dumps(value).encode()), st.text().map(str.encode))
)
def test_no_bytes_are_a_fault_of_the_readers(content):
    for read in (parse_body, unpack):
        with suppress(RLTransformerError):
            value = read(content, LIMITS)
            assert isinstance(value, dict)
            assert not any(
                isinstance(number, float) and math.isnan(number) for number in value.values() if read is parse_body
            )
