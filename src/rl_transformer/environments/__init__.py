"""Small environments of the papers; importing this registers them with gymnasium.

In the graph walk and the T-maze the seed of `reset` chooses the episode in turn, so that
consecutive seeds meet every start, and both cues, equally often.
"""

import re

import gymnasium

KEY_TO_DOOR = "rl_transformer/KeyToDoor-v0"
GAMBLING = "rl_transformer/Gambling-v0"
STITCHING = "rl_transformer/Stitching-v0"


def graph_walk_id(graph_seed: int) -> str:
    """Return the id of the shortest-path task in the random graph of that seed."""
    entry_point = "rl_transformer.environments.graph_walk:GraphWalkEnv"
    return _register(f"rl_transformer/GraphWalk{graph_seed}-v0", entry_point, graph_seed=graph_seed)


def t_maze_id(length: int) -> str:
    """Return the id of the passive T-maze whose corridor takes ``length`` steps."""
    return _register(f"rl_transformer/TMaze{length}-v0", "rl_transformer.environments.t_maze:TMazeEnv", length=length)


def register_numbered(env_id: str) -> None:
    """Register the graph walk or T-maze of an id such as rl_transformer/TMaze10-v0; leave other ids as they are."""
    # Their number is part of the name, and policies trained on them name it to whoever wants to evaluate them.
    found = re.fullmatch(r"rl_transformer/(GraphWalk|TMaze)(\d{1,6})-v0", env_id)
    if found is not None:
        make_id = graph_walk_id if found[1] == "GraphWalk" else t_maze_id
        make_id(int(found[2]))


def _register(env_id: str, entry_point: str, **options: int) -> str:
    """Register an environment unless it is registered already, and return its id."""
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=entry_point, kwargs=options)
    return env_id


_register(KEY_TO_DOOR, "rl_transformer.environments.key_to_door:KeyToDoorEnv")
_register(GAMBLING, "rl_transformer.environments.gambling:GamblingEnv")
_register(STITCHING, "rl_transformer.environments.stitching:StitchingEnv")
