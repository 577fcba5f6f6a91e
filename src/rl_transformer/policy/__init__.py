"""A model that can act: weights, units and rules in one folder without code, and live sessions."""

from rl_transformer.policy.loading import load_policy as load_policy
from rl_transformer.policy.policy import Policy as Policy
from rl_transformer.policy.session import PolicySession as PolicySession
from rl_transformer.policy.session_batch import SessionBatch as SessionBatch
from rl_transformer.policy.spec import PolicySpec as PolicySpec
