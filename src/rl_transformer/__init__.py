"""Offline reinforcement learning as sequence modeling: train, load and evaluate Decision Transformers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Type checkers and editors need real imports; `__getattr__` below provides the same names at run time.
if TYPE_CHECKING:
    from rl_transformer.config import RunConfig as RunConfig
    from rl_transformer.config import preset as preset
    from rl_transformer.errors import RLTransformerError as RLTransformerError
    from rl_transformer.evaluation.evaluate import evaluate as evaluate
    from rl_transformer.evaluation.offline.judge_policy import judge as judge
    from rl_transformer.evaluation.report import EvaluationReport as EvaluationReport
    from rl_transformer.models import DecisionTransformerConfig as DecisionTransformerConfig
    from rl_transformer.models import DecisionTransformerGPT2Model as DecisionTransformerGPT2Model
    from rl_transformer.models import DecisionTransformerModel as DecisionTransformerModel
    from rl_transformer.policy import Policy as Policy
    from rl_transformer.policy import PolicySession as PolicySession
    from rl_transformer.policy import load_policy as load_policy
    from rl_transformer.policy.import_huggingface import import_huggingface as import_huggingface
    from rl_transformer.run import train as train
    from rl_transformer.trajectories import Space as Space
    from rl_transformer.trajectories import TrajectoryDataset as TrajectoryDataset
    from rl_transformer.trajectories import open_trajectories as open_trajectories

# Module of each public name. Modules are imported on first use, so that `rlt --help` answers before torch is loaded.
_MODULES = {
    "RunConfig": "config",
    "RLTransformerError": "errors",
    "evaluate": "evaluation.evaluate",
    "EvaluationReport": "evaluation.report",
    "judge": "evaluation.offline.judge_policy",
    "DecisionTransformerConfig": "models",
    "DecisionTransformerGPT2Model": "models",
    "DecisionTransformerModel": "models",
    "Policy": "policy",
    "PolicySession": "policy",
    "load_policy": "policy",
    "import_huggingface": "policy.import_huggingface",
    "preset": "config",
    "train": "run",
    "Space": "trajectories",
    "TrajectoryDataset": "trajectories",
    "open_trajectories": "trajectories",
}
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rl_transformer' has no attribute {name!r}")
    return getattr(import_module(f"rl_transformer.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*_MODULES, "__version__"]
