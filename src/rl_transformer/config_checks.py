"""What contradicts itself in a configuration, or cannot work: (option, problem, fix) of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_transformer.config import RunConfig, Sections

_POSITIVE = (
    "training.train_steps", "training.batch_size", "training.learning_rate", "training.checkpoint_every",
    "training.keep_checkpoints", "training.threads", "training.max_gradient_norm", "training.lora_rank",
    "windows.context_length", "windows.window_length", "returns.scale", "returns.reward_clip", "model.frame_stack", "model.hidden_size",
    "model.n_layer", "model.n_head", "model.n_inner", "model.max_ep_len", "dataset.max_trajectories",
    "evaluation.num_episodes", "evaluation.every", "training.trunk_learning_rate", "language.alignment_centroids",
    "language.alignment_steps", "dataset.temperature", "language.text_batch_size", "language.text_length",
)  # fmt: skip
_NOT_NEGATIVE = (
    "training.warmup_steps", "training.weight_decay", "training.seed", "training.entropy_weight", "evaluation.seed",
    "model.timestep_initializer_range", "policy.prior_exponent", "language.alignment_weight", "language.text_weight",
    "training.trunk_weight_decay", "dataset.chain_seed",
)  # fmt: skip
_NOT_EMPTY = ("evaluation.env_id", "policy.suggested_targets", "model.trunk", "language.text")


def contradictions(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yield each, the gravest first."""
    if not c.dataset.uri:
        yield "dataset.uri", "no data is named", "pass --data URI, for example --data minari:mujoco/hopper/medium-v0"
    if not c.output:
        yield "output", "no run folder is named", "pass --output DIR"
    yield from _out_of_range(c)
    yield from _impossible_together(c)
    yield from _without_effect(c)


def _get(c: Sections, option: str) -> Any:
    """Return an option's value; None if this configuration has no such option."""
    section, _, name = option.partition(".")
    return getattr(getattr(c, section, None), name, None)


def numbers_out_of_range(c: Sections) -> Iterator[tuple[str, str, str]]:
    """Yield numbers that no configuration may have, among the options that this one has."""
    for option in _POSITIVE:
        if (value := _get(c, option)) is not None and not value > 0:
            yield option, f"{value} is not positive", "give a value above 0"
    for option in _NOT_NEGATIVE:
        if (value := _get(c, option)) is not None and value < 0:
            yield option, f"{value} is not 0 or more", "give 0 or more"
    for option in ("training.seed", "evaluation.seed"):
        if (_get(c, option) or 0) >= 2**63:
            yield option, f"{_get(c, option)} is too large", "give a seed below 2**63"
    betas = _get(c, "training.betas")
    if not all(0 <= beta < 1 for beta in betas):
        yield "training.betas", f"{betas} are not both in [0, 1)", "give for example [0.9, 0.999]"
    if not 0 <= _get(c, "training.average_decay") < 1:
        value = _get(c, "training.average_decay")
        yield "training.average_decay", f"{value} is not in [0, 1)", "give 0 for none, or for example 0.999"


def _out_of_range(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    yield from numbers_out_of_range(c)
    for option in _NOT_EMPTY:
        if _get(c, option) in ("", []):
            yield option, "is empty", "name one, or leave it out"
    share = c.dataset.top_fraction
    if not 0 < share <= 1:
        yield "dataset.top_fraction", f"{share} is not in (0, 1]", "give a share of the timesteps, for example 0.1"
    if not 0 <= c.policy.prior_floor < 1:
        yield "policy.prior_floor", f"{c.policy.prior_floor} is not in [0, 1)", "give 0 for none, or for example 0.001"
    if c.returns.bins < 2:
        yield "returns.bins", f"{c.returns.bins} is fewer than 2", "give 2 or more"
    if c.model.conditions not in ([], ["return_to_go"]):
        yield "model.conditions", f"{c.model.conditions} is not supported", "use [return_to_go] or []"


def _impossible_together(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    t, m, targets = c.training, c.model, c.evaluation.target_returns
    conditioned = bool(m.conditions) and m.arch == "decision_transformer"
    if t.entropy_weight and m.action_head != "gaussian":
        problem = f"the {m.action_head} head has no entropy to weigh"
        yield "training.entropy_weight", problem, "set model.action_head to gaussian, or leave it 0"
    if m.action_head == "gaussian" and not m.action_tanh:
        yield "model.action_tanh", "the gaussian head is always squashed", "leave it true"
    if targets and not c.evaluation.env_id:
        yield "evaluation.target_returns", "targets without an environment", "set evaluation.env_id too"
    if targets and not conditioned:
        yield "evaluation.target_returns", "this policy is not asked for a return", "leave the targets out"
    if c.policy.target == "generated" and (targets or c.policy.suggested_targets):
        option = "evaluation.target_returns" if targets else "policy.suggested_targets"
        yield option, "the policy names its returns itself", "leave them out, or set policy.target to asked"
    for option, default in {"returns.label": "realized", "policy.target": "asked"}.items():
        if not conditioned and _get(c, option) != default:
            yield option, "this policy is not conditioned on a return", f"leave it {default}"
    for option, default in {
        "returns.predict": False,
        "training.trunk": "full",
        "model.embedding": "linear",
        "model.attention": "window",
        "model.trunk": None,
        "training.trunk_learning_rate": None,
        "training.trunk_weight_decay": None,
        "model.time": "before_norm",
        "model.tie_action_head": False,
    }.items():
        if m.arch == "behavior_cloning" and _get(c, option) != default:
            yield option, "the MLP of behavior_cloning has no such part", f"leave it {default}"
    if m.attention == "streaming" and (m.trunk or m.positions != "off"):
        yield "model.attention", "a pretrained trunk reads whole windows", "use window"
    if m.tie_action_head and (m.action_head == "gaussian" or m.embedding != "linear"):
        problem = "only a linear embedding can read actions out, one number a dimension"
        yield "model.tie_action_head", problem, "leave it false, or use model.embedding linear and another head"
    language = c.language.text_weight or c.language.alignment_weight
    if language and (t.entropy_weight or c.needs_return_model):
        option = "training.entropy_weight" if t.entropy_weight else "returns"
        yield option, "is not combined with the losses of language", "leave it at its default, or language.* out"
    if c.language.text_weight and t.trunk == "frozen":
        yield "language.text_weight", "has no effect on a frozen trunk", "leave language.text out, or unfreeze it"
    if bool(c.language.text) != bool(c.language.text_weight):
        yield (
            "language.text",
            "a text needs a weight, and a weight a text",
            "set language.text and language.text_weight",
        )
    if m.attention == "streaming" and c.needs_return_model:
        problem = "a model of returns reads whole windows, and streaming keeps none"
        yield "model.attention", problem, "use window"
    if m.attention == "window" and c.window_length != c.windows.context_length:
        problem = f"windows of {c.window_length} timesteps would train on more than the {c.windows.context_length} seen while acting"
        yield "windows.window_length", problem, "leave it out, or set model.attention to streaming"
    if c.window_length < c.windows.context_length:
        problem = f"windows of {c.window_length} timesteps never fill a context of {c.windows.context_length}"
        yield "windows.window_length", problem, "give context_length or more"
    if c.policy.action_selection == "sample" and m.action_head == "continuous":
        problem = "the continuous head has no distribution to sample from"
        yield "policy.action_selection", problem, "use greedy, or model.action_head gaussian"


def _without_effect(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Options of something that is switched off: what the user set would be ignored."""
    switched_off = {
        "training.lora_rank": c.training.trunk != "lora" and "training.trunk is not lora",
        "returns.bins": not c.needs_return_model and "there is no model of returns",
        "policy.prior_exponent": c.policy.target == "asked" and "policy.target is asked",
        **{
            f"model.{name}": not c.model.trunk and "model.trunk is not given" for name in ("trunk_weights", "positions")
        },
        **{
            f"language.alignment_{name}": not c.language.alignment_weight and "language.alignment_weight is 0"
            for name in ("centroids", "steps")
        },
        **{
            f"language.{name}": not c.language.text and "there is no language.text"
            for name in ("text_batch_size", "text_length")
        },
        **{
            f"language.{name}": not c.model.trunk and "model.trunk is not given"
            for name in ("alignment_weight", "text_weight")
        },
        **dict.fromkeys(
            ("training.trunk_learning_rate", "training.trunk_weight_decay"),
            c.training.trunk == "frozen" and "training.trunk is frozen",
        ),
        "policy.prior_floor": c.policy.target == "asked" and "policy.target is asked",
    }
    for option, why in switched_off.items():
        if why and _get(c, option) != _get(type(c)(), option):
            yield option, f"has no effect: {why}", "leave it out, or switch on what it belongs to"
