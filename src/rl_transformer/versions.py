"""The versions that a result depends on."""

import platform
from importlib import metadata

_PACKAGES = ("rl-transformer", "torch", "numpy", "gymnasium", "mujoco")


def versions() -> dict[str, str]:
    """Return the versions of what computes a score; MuJoCo's alone changes returns."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
