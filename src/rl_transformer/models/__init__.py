"""The networks: they map tensors to tensors, and know nothing of datasets, episodes or environments."""

from rl_transformer.models.behavior_cloning import BehaviorCloningModel as BehaviorCloningModel
from rl_transformer.models.config import DecisionTransformerConfig as DecisionTransformerConfig
from rl_transformer.models.decision_transformer import DecisionTransformerModel as DecisionTransformerModel
from rl_transformer.models.interface import PolicyModel as PolicyModel
from rl_transformer.models.trunk.gpt2 import DecisionTransformerGPT2Model as DecisionTransformerGPT2Model

ARCHS = ("decision_transformer", "behavior_cloning")


def build_model(arch: str, config: DecisionTransformerConfig, context_length: int) -> PolicyModel:
    """Return a new network of the named architecture: decision_transformer or behavior_cloning."""
    if arch == "behavior_cloning":
        return BehaviorCloningModel(config, context_length)
    return DecisionTransformerModel(config)
