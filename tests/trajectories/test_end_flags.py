"""Claims about flags of episode ends: each step but the one where an end belongs is inside of the episode."""

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.trajectories.end_flags import flag_at_end, read_end_flags


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_flag_at_any_step_before_the_last_one_is_refused(step):
    flags = [number in (step, 3) for number in range(4)]
    with pytest.raises(RLTransformerError, match=f"is set at step {step} of 4"):
        flag_at_end(flags, 4, where="terminated")
    assert flag_at_end([False, False, False, True], 4, where="terminated")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_first_step_anywhere_but_at_the_beginning_is_refused(step):
    flags = [number in (0, step) for number in range(4)]
    with pytest.raises(RLTransformerError, match=f"is set at step {step} of 4"):
        read_end_flags({"is_first": flags}, 4, where="episode 0")
    assert read_end_flags({"is_first": [True, False, False, False]}, 4, where="episode 0") == (False, False)
