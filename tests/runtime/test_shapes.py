"""Claims about shapes in signatures: the tests check them, and the library works without the packages for it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from rl_transformer.runtime.shapes import Float
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.sampling import WindowIndex
from tests.models.small_models import inputs, make
from tests.shape_checks import PACKAGES, Loader, check


def batch(**changed):
    fields = {
        "states": torch.zeros(2, 3, 4),
        "actions": torch.zeros(2, 3, 1),
        "conditions": torch.zeros(2, 3, 1),
        "timesteps": torch.zeros(2, 3, dtype=torch.int64),
        "valid_mask": torch.ones(2, 3, dtype=torch.bool),
    }
    return WindowBatch(**(fields | changed))


@pytest.mark.parametrize(
    "wrong",
    [
        {"conditions": torch.zeros(2, 3)},
        {"timesteps": torch.zeros(2, 3)},
        {"valid_mask": torch.ones(2, 4, dtype=torch.bool)},
        {"next_states": torch.zeros(2, 3, 5)},
    ],
    ids=["rank", "dtype", "length", "another observation"],
)
def test_a_window_batch_of_wrong_shape_is_an_error_in_the_tests(wrong):
    batch(rewards=torch.zeros(2, 3), next_states=torch.zeros(2, 3, 4))
    with pytest.raises(BeartypeCallHintViolation, match=next(iter(wrong))):
        batch(**wrong)


def test_predict_actions_checks_its_arguments_and_goes_on_checking_after_a_call_that_passed():
    model = make("published")
    states, actions, conditions, timesteps = inputs(model.config)
    for _ in range(2):
        model.predict_actions(states, actions, conditions, timesteps)
        with pytest.raises(BeartypeCallHintViolation, match="conditions"):
            model.predict_actions(states, actions, conditions[..., 0], timesteps)


def test_arrays_of_numpy_and_results_are_checked_too():
    with pytest.raises(BeartypeCallHintViolation, match="trajectories"):
        WindowIndex(np.zeros(3, np.int64), np.zeros(2, np.int64))

    @check
    def half(values: "Float[np.ndarray, 'B']") -> "Float[np.ndarray, 'B']":  # noqa: F821
        return values[::2]

    with pytest.raises(BeartypeCallHintViolation, match="return"):
        half(np.zeros(4))


def test_every_imported_module_of_the_packages_is_checked():
    modules = [module for name, module in sys.modules.items() if name.startswith(PACKAGES)]
    assert len(modules) > 20
    assert all(isinstance(module.__loader__, Loader) for module in modules)


def test_without_jaxtyping_a_shaped_type_is_the_array_type():
    code = """
import sys
sys.modules["jaxtyping"] = None
import torch
from rl_transformer.runtime.shapes import Float, UInt8
assert Float[torch.Tensor, "B T D"] is torch.Tensor
assert UInt8[torch.Tensor, "B"] | None == torch.Tensor | None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
