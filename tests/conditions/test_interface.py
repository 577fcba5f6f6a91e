"""Claims about what all conditions share: the check of their contract, and what counts as a reward."""

import numpy as np
import pytest

from rl_transformer.conditions import ReturnToGo
from rl_transformer.conditions.interface import check_condition_contract
from tests.toys import point_data


@pytest.mark.parametrize("options", [{}, {"reward_clip": 0.4}, {"update": "keep"}], ids=str)
def test_the_check_of_the_contract_accepts_what_begins_anew_with_every_episode(options):
    check_condition_contract(ReturnToGo(**options), point_data(3))


def test_gains_and_losses_are_clipped_alike():
    assert ReturnToGo(reward_clip=1.0).clip_rewards(np.array([-3.0, -1.0, 0.5, 3.0])).tolist() == [-1.0, -1.0, 0.5, 1.0]
