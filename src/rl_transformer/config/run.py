"""Define the configuration of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rl_transformer.config import sections
from rl_transformer.config.base import ConfigBase, option
from rl_transformer.config.migrations import migrate_run_config
from rl_transformer.config.rules import contradictions
from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.types import JsonMapping, JsonObject

# Training windows per context length with sliding-window attention. At 3, two thirds of a window's predictions have a
# full context behind them; longer windows raise that share slowly and cost memory.
_SLIDING_WINDOW_FACTOR = 3


@dataclass(kw_only=True, repr=False)
class RunConfig(ConfigBase):
    """Holds everything that determines a training run, in sections of options."""

    preset: str = option("", "Recipe that the options started from.")
    dataset: sections.DataConfig = field(default_factory=sections.DataConfig)
    model: sections.ModelConfig = field(default_factory=sections.ModelConfig)
    windows: sections.WindowConfig = field(default_factory=sections.WindowConfig)
    returns: sections.ReturnConfig = field(default_factory=sections.ReturnConfig)
    training: sections.TrainingConfig = field(default_factory=sections.TrainingConfig)
    language: sections.LanguageConfig = field(default_factory=sections.LanguageConfig)
    policy: sections.PolicyConfig = field(default_factory=sections.PolicyConfig)
    evaluation: sections.EvaluationConfig = field(default_factory=sections.EvaluationConfig)

    def defaults(self) -> RunConfig:
        """Return the configuration that the options started from: the preset's, or the defaults of all options."""
        return preset(self.preset) if self.preset else RunConfig()

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
    def evaluate_every(self) -> int:
        """Number of updates between evaluations during training."""
        if self.evaluation.every is not None:
            return self.evaluation.every
        # A tenth, so that a run shows whether the loss on held-out episodes turns, however long it is.
        is_evaluated = self.evaluation.env_id or self.dataset.validation_fraction
        return max(1, self.training.train_steps // 10) if is_evaluated else self.training.train_steps

    @property
    def needs_return_model(self) -> bool:
        """True if a return model is trained with the policy."""
        return self.returns.predict or self.returns.label == "expected" or self.policy.target == "generated"

    @property
    def why_not_longer(self) -> str | None:
        """Reason why more updates would make another run than one of that length from the start, or None."""
        if self.returns.label == "expected":
            return "the return model that labels its data was trained for as many updates"
        return None

    def check(self) -> None:
        """Raise an `RLTransformerError` for the first value that is wrong or contradicts another one."""
        self.check_values()
        self.defaults()  # raises an error for a preset that does not exist
        for name, problem, fix in contradictions(self):
            raise RLTransformerError(problem, where=name, fix=fix)


PRESETS: dict[str, Callable[[], RunConfig]] = {}
"""Functions that return a recipe's configuration, by the recipe's name; `config.presets` fills it."""


def preset(name: str) -> RunConfig:
    """Return a new configuration with the values of the named recipe.

    Raises:
        RLTransformerError: There is no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:  # a file may hold anything
        hint = did_you_mean(str(name), PRESETS)
        raise RLTransformerError(f"no preset {name!r}", where="preset", fix=f"{hint}choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
