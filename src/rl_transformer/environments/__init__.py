"""Small environments of the papers; importing this registers them with gymnasium."""

import gymnasium

KEY_TO_DOOR = "rl_transformer/KeyToDoor-v0"

if KEY_TO_DOOR not in gymnasium.registry:
    gymnasium.register(KEY_TO_DOOR, entry_point="rl_transformer.environments.key_to_door:KeyToDoorEnv")
