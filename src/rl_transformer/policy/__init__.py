"""Policies: a trained model with its units and rules, in a folder without code, and the live sessions in which it acts."""

from rl_transformer.policy.loading import load_policy as load_policy
from rl_transformer.policy.policy import Policy as Policy
from rl_transformer.policy.session import PolicySession as PolicySession
from rl_transformer.policy.session_batch import SessionBatch as SessionBatch
from rl_transformer.policy.spec import PolicySpec as PolicySpec
