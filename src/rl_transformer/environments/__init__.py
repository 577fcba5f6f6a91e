"""Small environments of the papers; importing this registers them with gymnasium.

In the graph walk and the T-maze the seed of `reset` chooses the episode in turn, so that
consecutive seeds meet every start, and both cues, equally often.
"""

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


def _register(env_id: str, entry_point: str, **options: int) -> str:
    """Register an environment unless it is registered already, and return its id."""
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, entry_point=entry_point, kwargs=options)
    return env_id


_register(KEY_TO_DOOR, "rl_transformer.environments.key_to_door:KeyToDoorEnv")
_register(GAMBLING, "rl_transformer.environments.gambling:GamblingEnv")
_register(STITCHING, "rl_transformer.environments.stitching:StitchingEnv")
