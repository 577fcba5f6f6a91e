"""Define the configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from rl_transformer.config import sections
from rl_transformer.config.base import ConfigBase
from rl_transformer.config.migrations import migrate_run_config
from rl_transformer.config.rules import contradictions
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

# Training windows per context length with sliding-window attention. At 3, two thirds of a window's predictions have a
# full context behind them; longer windows raise that share slowly and cost memory.
_SLIDING_WINDOW_FACTOR = 3


@dataclass(kw_only=True)
class RunConfig(ConfigBase):
    """Holds everything that determines a training run, in sections of options."""

    dataset: sections.DataConfig = field(default_factory=sections.DataConfig)
    model: sections.ModelConfig = field(default_factory=sections.ModelConfig)
    windows: sections.WindowConfig = field(default_factory=sections.WindowConfig)
    returns: sections.ReturnConfig = field(default_factory=sections.ReturnConfig)
    training: sections.TrainingConfig = field(default_factory=sections.TrainingConfig)
    language: sections.LanguageConfig = field(default_factory=sections.LanguageConfig)
    policy: sections.PolicyConfig = field(default_factory=sections.PolicyConfig)
    evaluation: sections.EvaluationConfig = field(default_factory=sections.EvaluationConfig)

    @classmethod
    def migrate(cls, values: JsonMapping) -> JsonObject:
        """Return values that an earlier version wrote, with the current names of options."""
        return migrate_run_config(values)

    @property
    def window_length(self) -> int:
        """Number of timesteps per training window.

        With sliding-window attention, windows are longer than the context. Most predictions are then trained with a
        full context behind them, as when the policy acts.
        """
        if self.windows.window_length is not None:
            return self.windows.window_length
        factor = _SLIDING_WINDOW_FACTOR if self.model.attention == "sliding_window" else 1
        return factor * self.windows.context_length

    @property
    def needs_return_model(self) -> bool:
        """True if a return model is trained with the policy."""
        return self.returns.predict or self.returns.label == "expected" or self.policy.target == "generated"

    def check(self) -> None:
        """Raise an `RLTransformerError` for the first value that is wrong or contradicts another one."""
        self.check_values()
        for name, problem, fix in contradictions(self):
            raise RLTransformerError(problem, where=name, fix=fix)
