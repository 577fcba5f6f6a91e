"""Action heads turn hidden states into actions, and score logged actions. A head is one file and one registration."""

from rl_transformer.models.heads.interface import HEADS as HEADS
from rl_transformer.models.heads.interface import ActionHead as ActionHead
from rl_transformer.models.heads.interface import default_head as default_head
from rl_transformer.models.heads.interface import make_action_head as make_action_head

HEADS.register("continuous", "rl_transformer.models.heads.continuous:ContinuousHead")
HEADS.register("discrete", "rl_transformer.models.heads.discrete:DiscreteHead")
HEADS.register("multi_discrete", "rl_transformer.models.heads.multi_discrete:MultiDiscreteHead")
HEADS.register("gaussian", "rl_transformer.models.heads.gaussian:GaussianHead")
