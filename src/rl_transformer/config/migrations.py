"""Translate configurations and policies of earlier versions, one function per kind of file.

Every released version must stay readable: the tests load a folder of each (tests/released).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from rl_transformer.runtime.types import JsonMapping, JsonObject, OptionValue

# Old name -> new name, for options of run format 1.
RENAMED_OPTIONS = {"training.average_decay": "training.ema_decay", "model.time": "model.timestep_embedding"}
# Old value -> new value, for options of run format 1, by the new name of the option.
_RENAMED_VALUES = {
    "model.attention": {"window": "full", "streaming": "sliding_window"},
    "policy.target": {"asked": "given"},
}
# Old prefix -> new prefix, for parameters in checkpoints of run format 1.
_RENAMED_PARTS = {
    "belief.": "return_logits.",
    "words.table.": "lm_head.embeddings.",
    "words.positions.": "lm_head.positions.",
    "words.head.": "lm_head.output.",
}


def migrate_option(name: str, value: OptionValue) -> tuple[str, OptionValue]:
    """Return the current name and value of an option of run format 1; current options are returned unchanged."""
    name = RENAMED_OPTIONS.get(name, name)
    if isinstance(value, str):
        value = _RENAMED_VALUES.get(name, {}).get(value, value)
    return name, value


def migrate_run_config(values: JsonMapping) -> JsonObject:
    """Return a config.json of run format 1 in the current format; a current one is returned unchanged."""
    # Old names do not exist in the current format, so translating is safe without knowing the file's version. YAML
    # files that users wrote have no version.
    migrated: JsonObject = {}
    for section, options in values.items():
        if not isinstance(options, Mapping):
            migrated[section] = options
            continue
        migrated[section] = {}
        for key, value in options.items():
            name, present = migrate_option(f"{section}.{key}", value)
            migrated[section][name.partition(".")[2]] = present
    return _without_idle_every(_with_one_fold(_keep_unfinished_to_uri(migrated)))


def _without_idle_every(values: JsonObject) -> JsonObject:
    """Remove the former default of evaluation.every from the options of a run that was never evaluated.

    Runs wrote every option, and a value without effect is refused where it differs from the default.
    """
    evaluation = values.get("evaluation")
    dataset = values.get("dataset")
    is_held_out = isinstance(dataset, dict) and dataset.get("validation_fraction")
    if (
        isinstance(evaluation, dict)
        and not evaluation.get("env_id")
        and not is_held_out
        and evaluation.get("every") == 10_000
    ):
        del evaluation["every"]
    return values


def _with_one_fold(values: JsonObject) -> JsonObject:
    """Add returns.folds to the options of a run whose one return model labelled the episodes that it learned from."""
    returns = values.get("returns")
    # Files that a run wrote hold every option of their version; a file of a user may hold the label only.
    if isinstance(returns, dict) and returns.get("label") == "expected" and {"bins", "predict"} <= set(returns):
        returns.setdefault("folds", 1)
    return values


def _keep_unfinished_to_uri(values: JsonObject) -> JsonObject:
    """Move the option dataset.keep_unfinished, which only the D4RL reader ever used, into the URI."""
    dataset = values.get("dataset")
    if isinstance(dataset, dict) and dataset.pop("keep_unfinished", False) is True:
        dataset["uri"] = f"{dataset.get('uri', '')}?keep_unfinished=true"
    return values


def migrate_policy(values: JsonMapping) -> JsonObject:
    """Return a policy.json of an earlier format in format 5.

    Format 4 describes the training data more closely; what earlier files do not say is None. In format 5 a return has a
    kind, which was called a unit before, when there was only one; and there is advice on targets.
    """
    # A copy, because the caller still verifies the original content.
    migrated = copy.deepcopy(dict(values))
    if migrated["format_version"] < 3:
        migrated = _policy_to_format_3(migrated)
    migrated.setdefault("return_quantiles", None)
    migrated.setdefault("longest_episode", None)
    migrated.setdefault("advice", None)
    for definition in (migrated["returns"], *migrated["conditions"]):
        if definition.get("name") == "return_to_go" and "unit" in definition:
            definition["kind"] = definition.pop("unit")
    migrated["format_version"] = 5
    return migrated


def _policy_to_format_3(migrated: JsonObject) -> JsonObject:
    """Return a policy.json of format 1 or 2 in format 3.

    Format 3 has a list of conditions; formats 1 and 2 have one return rule. Format 1 has no return model.
    """
    model = dict(migrated["model"])
    if "time" in model:
        model["timestep_embedding"] = model.pop("time")
    migrated["model"] = model
    # The definition of the return is stored even for policies that are not conditioned on it; they report returns, too.
    returns = {"name": "return_to_go", **migrated.pop("return_rule")}
    migrated["returns"] = returns
    conditioned = migrated["arch"] == "decision_transformer" and list(model["conditions"]) == ["return_to_go"]
    migrated["conditions"] = [returns] if conditioned else []
    if migrated.get("target", "asked") == "asked":
        migrated["target"] = "given"
    # Format 1 lacks these. The values are the defaults of the version that introduced them, and must never change.
    for key, default in {"prior_exponent": 10.0, "prior_floor": 0.001, "return_bins": None}.items():
        migrated.setdefault(key, default)
    return_range = migrated.pop("return_range", None)
    migrated["target_ranges"] = {} if return_range is None else {"return_to_go": return_range}
    return migrated


def migrate_policy_tensor(name: str) -> str:
    """Return the current name of a tensor in a policy.safetensors of format 1 or 2."""
    if name.startswith("scaling."):
        return "normalizer." + name.removeprefix("scaling.")
    return name.replace("return_model.belief.", "return_model.return_logits.")


def migrate_checkpoint_tensor(name: str) -> str:
    """Return the current name of a tensor in a checkpoint of run format 1; current names are returned unchanged.

    A name consists of a kind (model, exp_avg, exp_avg_sq or average) and a parameter. The language modeling head was a
    part of the model in format 1 and is a part of the loss now.
    """
    kind, _, parameter = name.partition(".")
    for before, now in _RENAMED_PARTS.items():
        if parameter.startswith(before):
            owner = "loss" if kind == "model" and now.startswith("lm_head.") else kind
            return f"{owner}.{now}{parameter.removeprefix(before)}"
    return name
