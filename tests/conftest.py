import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import pytest
import torch
from jaxtyping import install_import_hook

from tests.shape_checks import PACKAGES

# From here on every call in these packages is checked against the shapes in its signature. This file runs before any
# of them is imported: a module that is imported already would not be checked.
install_import_hook(PACKAGES, "tests.shape_checks.check_arrays")


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_numbers():
    torch.set_num_threads(1)
    torch.manual_seed(0)
