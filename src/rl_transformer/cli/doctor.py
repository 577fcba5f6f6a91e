"""`rlt doctor` describes this installation: what a report of a bug should contain."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser

_PACKAGE = "rl-transformer"
# One environment for every family that the documentation uses; being able to make one says that the others work, too.
_ENVIRONMENTS = (
    "CartPole-v1",
    "rl_transformer/KeyToDoor-v0",
    "Hopper-v5",
    "ALE/Pong-v5",
    "MiniGrid-Empty-5x5-v0",
    "PointMaze_UMaze-v3",
)


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    return new_parser(prog, "Describe this installation: versions, device, extras and environments. Nothing is sent.")


def run(args: Namespace) -> Outcome:
    """Print the description."""
    description = describe_installation()
    for section, values in description.items():
        print(section)
        for name, value in values.items():
            print(f"  {name}: {value}")
    return Outcome(description)


def describe_installation() -> dict[str, dict[str, Any]]:
    """Return versions, system, device, extras and environments, JSON-ready."""
    import platform

    from rl_transformer import __version__
    from rl_transformer.runtime.machine import describe_hardware, versions
    from rl_transformer.runtime.system import usable_cores

    return {
        "versions": {
            "rl_transformer": __version__,
            **versions("safetensors", "transformers", "minari", "h5py", "jsonargparse"),
        },
        "system": {"platform": platform.platform(), **describe_hardware(), "usable cores": usable_cores()},
        "device": _describe_device(),
        "extras": _describe_extras(),
        "environments": {env_id: _try_to_make(env_id) for env_id in _ENVIRONMENTS},
    }


def _describe_device() -> dict[str, Any]:
    """Return what torch computes on."""
    import os

    import torch

    described: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "cuda": torch.cuda.is_available(),
    }
    for number in range(torch.cuda.device_count()):
        described[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    return described


def _describe_extras() -> dict[str, str]:
    """Return for every extra of this package if it is installed, or else what it lacks."""
    from packaging.requirements import Requirement

    described = {}
    for extra in metadata(_PACKAGE).get_all("Provides-Extra") or []:
        needed = [Requirement(text) for text in requires(_PACKAGE) or []]
        missing = [
            requirement.name
            for requirement in needed
            if requirement.marker is not None
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
            and not _is_installed(requirement.name)
        ]
        described[extra] = f"missing: {', '.join(missing)}" if missing else "installed"
    return described


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _try_to_make(env_id: str) -> str:
    """Return "ok", or in one line why the environment cannot be made."""
    from rl_transformer.environments.making import make_environment
    from rl_transformer.errors import RLTransformerError

    try:
        make_environment(env_id).close()
    except RLTransformerError as error:
        return f"no: {error.problem.splitlines()[0]:.120}"
    return "ok"
