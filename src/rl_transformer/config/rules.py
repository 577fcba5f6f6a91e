"""Check options of different sections against each other; rules within a section are in `sections`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

from rl_transformer.config import sections
from rl_transformer.config.base import Problem
from rl_transformer.runtime.types import OptionValue

MIN_SUPPORT_SIZE = 32


class RunOptions(Protocol):
    """Describes the part of a `RunConfig` that the rules read."""

    output: str
    dataset: sections.DataConfig
    model: sections.ModelConfig
    windows: sections.WindowConfig
    training: sections.TrainingConfig
    language: sections.LanguageConfig
    policy: sections.PolicyConfig
    evaluation: sections.EvaluationConfig

    @property
    def window_length(self) -> int:
        """Timesteps per training window."""
        ...

    @property
    def needs_return_model(self) -> bool:
        """True if a return model is trained with the policy."""
        ...

    def get(self, name: str) -> OptionValue:
        """Return the value of an option."""
        ...

    def defaults(self) -> RunOptions:
        """Return the configuration that the options started from: the preset's, or the defaults of all options."""
        ...


def contradictions(c: RunOptions) -> Iterator[Problem]:
    """Yield (option, problem, fix) for every contradiction between options, the most basic one first.

    Args:
        c: A configuration whose types and bounds were checked.
    """
    # Everything that the user sets must have an effect or raise an error. The rules read options only, so a mistake is
    # reported before data or models are loaded.
    if not c.dataset.uri:
        yield (
            "dataset.uri",
            "no data is named",
            "pass --data URI (config.dataset.uri in Python), for example --data minari:mujoco/hopper/medium-v0",
        )
    if not c.output:
        yield "output", "no run folder is named", "pass --output DIR (config.output in Python)"
    yield from _conditions(c)
    yield from _behavior_cloning(c)
    yield from _language(c)
    yield from _windows(c)
    # Heads of plugins declare by themselves if they have an entropy; they are checked once they are built.
    if c.training.entropy_weight and c.model.action_head in ("auto", "continuous", "discrete", "multi_discrete"):
        problem = f"the {c.model.action_head} head has no entropy bonus"
        yield "training.entropy_weight", problem, "set model.action_head to gaussian, or leave it 0"
    if c.policy.action_selection == "sample" and c.model.action_head == "continuous":
        problem = "the continuous head has no distribution to sample from"
        yield "policy.action_selection", problem, "use greedy, or model.action_head gaussian"
    if 0 < c.policy.support_size < MIN_SUPPORT_SIZE:
        problem = f"{c.policy.support_size} observations are too few to detect what is far from them"
        yield "policy.support_size", problem, f"give {MIN_SUPPORT_SIZE} or more, or 0 to store none"
    yield from _without_effect(c)


def _conditions(c: RunOptions) -> Iterator[Problem]:
    """Yield targets and labels that have no effect on this policy."""
    conditions = c.model.conditions if c.model.arch == "decision_transformer" else []
    targets = c.evaluation.target_returns
    if targets and "return_to_go" not in conditions:
        yield "evaluation.target_returns", "this policy is not conditioned on a return", "leave the targets out"
    for name in c.evaluation.targets:
        if name not in conditions or name == "return_to_go":
            fix = "use evaluation.target_returns" if name == "return_to_go" else f"choose among {conditions}"
            yield "evaluation.targets", f"{name} is not a further condition of this policy", fix
    if c.policy.target == "generated" and (targets or c.policy.suggested_targets):
        option = "evaluation.target_returns" if targets else "policy.suggested_targets"
        yield option, "the policy generates its own targets", "leave them out, or set policy.target to given"
    yield from _returns_that_nothing_reads(c, "return_to_go" in conditions)


def _returns_that_nothing_reads(c: RunOptions, is_conditioned: bool) -> Iterator[Problem]:
    """Yield options of the return if neither the policy nor anything else depends on them."""
    if is_conditioned:
        return
    unused = ["returns.label", "policy.target", "policy.suggested_targets"]
    if not c.needs_return_model:
        unused += ["returns.scale", "returns.update"]
        # Clipped rewards also decide which episodes are the best ones, and how often their windows are drawn.
        selects = c.dataset.top_fraction < 1 or c.dataset.min_return is not None or c.windows.return_balance
        unused += [] if selects else ["returns.reward_clip", "returns.kind"]
    for option in unused:
        default = c.defaults().get(option)
        if c.get(option) != default:
            yield option, "this policy is not conditioned on a return", f"leave it {_as_text(default)}"


# The options of the network and its training that the MLP of behavior cloning has.
_OF_THE_MLP = {
    "model.arch",
    "model.init_from",
    "model.init_statistics",
    "model.action_head",
    "model.action_tanh",
    "model.hidden_size",
    "model.n_layer",
    "model.resid_pdrop",
    "model.frame_stack",  # refused with the observations, which are vectors
}
_OF_THE_TRUNK = {
    "returns.predict",
    "training.trunk",
    "training.trunk_learning_rate",
    "training.trunk_weight_decay",
}


def _behavior_cloning(c: RunOptions) -> Iterator[Problem]:
    """Yield options of the transformer that the MLP of behavior cloning does not have."""
    if c.model.arch != "behavior_cloning":
        return
    of_the_model = {f"model.{item.name}" for item in fields(c.model)}
    defaults = c.defaults()
    # Compared with the preset: an option that has its value may have been set or not, and does no harm either way.
    for option in sorted((of_the_model - _OF_THE_MLP) | _OF_THE_TRUNK):
        value = c.get(option)
        if value != defaults.get(option) and not (option == "model.conditions" and value == []):
            yield option, "the MLP of behavior_cloning has no such part", f"leave it {_as_text(defaults.get(option))}"


def _language(c: RunOptions) -> Iterator[Problem]:
    """Yield contradictions of the options ``language.*``."""
    language = c.language
    uses_language = language.text_weight or language.alignment_weight
    if uses_language and (c.training.entropy_weight or c.needs_return_model):
        option = "training.entropy_weight" if c.training.entropy_weight else "returns"
        yield option, "cannot be combined with the losses of language.*", "leave it at its default, or language.* out"
    if language.text_weight and c.training.trunk == "frozen":
        yield "language.text_weight", "has no effect on a frozen trunk", "leave language.text out, or unfreeze it"
    if bool(language.text) != bool(language.text_weight):
        problem = "co-training needs both a text and a weight"
        yield "language.text", problem, "set language.text and language.text_weight"


def _windows(c: RunOptions) -> Iterator[Problem]:
    """Yield contradictions between window length, context length and attention."""
    context_length = c.windows.context_length
    if c.model.attention == "sliding_window" and c.needs_return_model:
        problem = "a return model reads full windows, and sliding-window attention keeps none"
        yield "model.attention", problem, "use full"
    # With full attention the whole window is the context, so training and acting must use windows of the same length.
    if c.model.attention == "full" and c.window_length != context_length:
        problem = (
            f"windows of {c.window_length} timesteps would train on more than the {context_length} seen while acting"
        )
        yield "windows.window_length", problem, "leave it out, or set model.attention to sliding_window"
    if c.model.attention == "sliding_window" and c.model.timestep_embedding == "window":
        problem = "gives every token a place in its window, and sliding-window attention has no fixed windows"
        yield "model.timestep_embedding", problem, "use before_norm, or model.attention full"
    if c.window_length < context_length:
        problem = f"windows of {c.window_length} timesteps never fill a context of {context_length}"
        yield "windows.window_length", problem, "give context_length or more"


def _without_effect(c: RunOptions) -> Iterator[Problem]:
    """Yield options of features that are off, because values that the user set would be ignored."""
    not_evaluated = not c.evaluation.env_id and "evaluation.env_id is not set"
    never_evaluated = not c.dataset.validation_fraction and not_evaluated
    reasons = {
        "evaluation.num_episodes": not_evaluated,
        "evaluation.seed": not_evaluated,
        "evaluation.on_error": never_evaluated,
        "evaluation.every": never_evaluated and f"{never_evaluated}, and no episodes are held out",
        "model.condition_entry": not c.model.conditions and "there are no conditions",
        "training.lora_rank": c.training.trunk != "lora" and "training.trunk is not lora",
        "returns.folds": c.get("returns.label") != "expected" and "returns.label is not expected",
        "returns.bins": not c.needs_return_model and "there is no return model",
        "policy.prior_exponent": c.policy.target == "given" and "policy.target is given",
        "policy.prior_floor": c.policy.target == "given" and "policy.target is given",
        "model.timestep_initializer_range": c.model.timestep_embedding == "window" and "the table begins at zero",
        "model.initializer_range": bool(c.model.trunk) and "model.trunk brings its own weights",
        "model.init_statistics": not c.model.init_from and "model.init_from is not set",
        "model.trunk_weights": not c.model.trunk and "model.trunk is not set",
        "model.positions": not c.model.trunk and "model.trunk is not set",
        "model.blocks": bool(c.model.trunk) and "model.trunk brings its own blocks",
        "language.alignment_centroids": not c.language.alignment_weight and "language.alignment_weight is 0",
        "language.alignment_steps": not c.language.alignment_weight and "language.alignment_weight is 0",
        "language.text_batch_size": not c.language.text and "there is no language.text",
        "language.text_length": not c.language.text and "there is no language.text",
        "language.alignment_weight": not c.model.trunk and "model.trunk is not set",
        "language.text_weight": not c.model.trunk and "model.trunk is not set",
        "training.trunk_learning_rate": c.training.trunk == "frozen" and "training.trunk is frozen",
        "training.trunk_weight_decay": c.training.trunk == "frozen" and "training.trunk is frozen",
    }
    defaults = c.defaults()
    for option, reason in reasons.items():
        if reason and c.get(option) != defaults.get(option):
            yield option, f"has no effect: {reason}", "leave it out, or switch on what it belongs to"


def _as_text(value: OptionValue) -> str:
    """Return a value as the user would type it."""
    return "null" if value is None else str(value)
