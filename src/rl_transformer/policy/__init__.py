"""A model that can act: weights, units and rules in one safe folder, and live sessions."""

from rl_transformer.policy.policy import Policy as Policy
from rl_transformer.policy.policy import PolicySpec as PolicySpec
from rl_transformer.policy.policy import load_policy as load_policy
from rl_transformer.policy.session import PolicySession as PolicySession
from rl_transformer.policy.session import SessionBatch as SessionBatch
