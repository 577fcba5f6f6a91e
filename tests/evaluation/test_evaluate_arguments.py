"""Claims about the arguments of `evaluate`: what is no policy or no list of targets is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from rl_transformer import RLTransformerError, evaluate
from tests.toys import POINT, point_data, untrained_policy


def test_the_name_of_a_policy_is_refused_and_loading_it_first_is_the_fix():
    for name in ("p6", Path("p6")):
        with pytest.raises(RLTransformerError) as caught:
            evaluate(name, POINT)
        assert caught.value.fix == "load it first: load_policy('p6')"
    with pytest.raises(RLTransformerError, match="policy: is of the type Linear"):
        evaluate(untrained_policy(point_data()).model.predict_return, POINT)


def test_a_single_target_is_a_list_of_one_and_text_is_none():
    policy = untrained_policy(point_data())
    for targets in (4.0, 4, np.float32(4.0), np.array(4.0), [np.array(4.0)], np.array([4.0])):
        report = evaluate(policy, POINT, target_returns=targets, num_episodes=1)
        assert [target.target_return for target in report.targets] == [4.0]
    for targets in ("10", b"10", None, {"return": 10.0}):
        with pytest.raises(RLTransformerError, match=r"^target_returns: .*\n.*target_returns=\[10.0\]"):
            evaluate(policy, POINT, target_returns=targets, num_episodes=1)
    with pytest.raises(RLTransformerError, match="it is a truth value"):
        evaluate(policy, POINT, target_returns=True, num_episodes=1)
