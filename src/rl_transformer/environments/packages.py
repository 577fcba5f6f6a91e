"""Know which package registers an environment, so that an unknown id is answered with how to install it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec


@dataclass(frozen=True)
class Package:
    """A package that registers environments when it is imported."""

    name: str
    """Name for pip."""
    module: str
    ids: str
    """Regular expression for the ids that it registers."""


_ROBOTICS = r"Fetch|Hand(Reach|Manipulate)|Adroit|PointMaze_|AntMaze_|FrankaKitchen"
PACKAGES = (
    Package("ale-py", "ale_py", r"ALE/|(Pong|Breakout|Qbert|Seaquest|SpaceInvaders|Atlantis)\w*-v[0-5]$"),
    Package("minigrid", "minigrid", r"MiniGrid-|BabyAI-"),
    Package("miniworld", "miniworld", r"MiniWorld-"),
    Package("gymnasium-robotics", "gymnasium_robotics", _ROBOTICS),
    Package("panda-gym", "panda_gym", r"Panda\w+-v\d"),
    Package("highway-env", "highway_env", r"(highway|merge|roundabout|parking|intersection|racetrack)(-fast)?-v\d"),
    Package("mo-gymnasium", "mo_gymnasium", r"mo-|deep-sea-treasure|resource-gathering|fruit-tree"),
    Package("metaworld", "metaworld", r"Meta-World/"),
    Package("flappy-bird-gymnasium", "flappy_bird_gymnasium", r"FlappyBird-"),
    Package("shimmy[dm-control]", "shimmy", r"dm_control/"),
)


def package_of(env_id: str) -> Package | None:
    """Return the package that is known to register an id, or None."""
    return next((package for package in PACKAGES if re.match(package.ids, env_id)), None)


def import_package(package: Package) -> bool:
    """Import a known package, which registers its environments; return False if it is not installed."""
    # The modules are those of the table above. Nothing that a file or a user names is imported here.
    if find_spec(package.module) is None:
        return False
    import_module(package.module)
    return True


def install_command(message: str) -> str | None:
    """Return the command ``pip install ...`` that an environment's message about a missing package contains."""
    if "mujoco" in message.lower() and "install" in message.lower():
        return "pip install 'rl-transformer[mujoco]'"
    commands = re.findall(r"pip install (?:[\"'][^\"']+[\"']|[\w\[\],.<>=-]+)", message)
    module = re.search(r"No module named '(\w+)", message)
    if not commands:
        return None if module is None else f"pip install {module[1]}"
    # Several are either steps or alternatives, of which the first will do.
    between = message.partition(commands[0])[2].partition("pip install")[0]
    return commands[0] if re.search(r"\bor\b", between) else " && ".join(commands)
