"""Conditions: the quantities that a policy is conditioned on, in logged data and while it acts."""

from rl_transformer.conditions.interface import CONDITIONS as CONDITIONS
from rl_transformer.conditions.interface import Condition as Condition
from rl_transformer.conditions.interface import conditions_from_data as conditions_from_data
from rl_transformer.conditions.interface import conditions_from_dicts as conditions_from_dicts
from rl_transformer.conditions.return_to_go import ReturnToGo as ReturnToGo

CONDITIONS.register("return_to_go", "rl_transformer.conditions.return_to_go:ReturnToGo")
CONDITIONS.register("cost_to_go", "rl_transformer.conditions.cost_to_go:CostToGo")
