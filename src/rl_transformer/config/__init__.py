"""Declare everything that determines a run as plain values: options, presets and the rules between options.

Nothing here imports torch, so that `rlt --help` answers at once.
"""

from rl_transformer.config import presets as presets  # fills PRESETS
from rl_transformer.config.base import ConfigBase as ConfigBase
from rl_transformer.config.run import PRESETS as PRESETS
from rl_transformer.config.run import RunConfig as RunConfig
from rl_transformer.config.run import preset as preset
from rl_transformer.config.sections import EvaluationConfig as EvaluationConfig
from rl_transformer.config.sections import LanguageConfig as LanguageConfig
from rl_transformer.config.sections import TrainingConfig as TrainingConfig
