"""protocol.json: what an experiment measures and the rules that judge it, written before the first measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rl_transformer.config import PRESETS
from rl_transformer.config.migrations import migrate_option
from rl_transformer.errors import RLTransformerError
from rl_transformer.reproductions.experiment import JSON, Experiment, Setup
from rl_transformer.reproductions.run_cache import options_not_at_default
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.reading import read_json

# Wording of rules and rows in results of earlier versions, and the present wording of the same thing.
_REWORDED = (
    ("Spearman's rho of asked and achieved, inside", "Spearman's rho of target and achieved returns, inside"),
    (
        "asked for 1.5 times the data's largest return, it earns",
        "with a target of 1.5 times the data's largest return, it earns",
    ),
    ("DT asked for", "DT with target return"),
    ("Decision Transformer asked for", "Decision Transformer with target return"),
    ("return when asked for", "return with target"),
    ("asked for", "target return"),
    (": to 90 %", ": updates to 90 % of its own final score"),
)


def begin_protocol(experiment: Experiment, setup: Setup, data: JSON | None = None) -> JSON:
    """Write the protocol before anything is measured, and return it.

    Args:
        experiment: What will be measured.
        setup: What the user chose.
        data: What identifies the data, once it is known.

    Raises:
        RLTransformerError: The folder holds measurements of another protocol, or something else.
    """
    path = setup.output / "protocol.json"
    protocol = _make_protocol(experiment, setup, data)
    has_measurements = any((setup.output / "cells").glob("*.json"))
    if path.exists() and has_measurements:
        recorded = read_protocol(path)
        _refuse_another_protocol(recorded, protocol, setup.output)
        return {**protocol, **{name: recorded[name] for name in ("changed_rules",) if name in recorded}}
    if not path.exists() and setup.output.exists() and (not setup.output.is_dir() or any(setup.output.iterdir())):
        raise RLTransformerError(
            "is there already and holds no results of rlt reproduce",
            where=setup.output,
            fix="name another folder with --output",
        )
    write_text(path, to_json(protocol))
    return protocol


def read_protocol(path: Path) -> JSON:
    """Return a protocol.json, of this version or an earlier one, with the present option names and wording."""
    protocol = _migrate_options(read_json(path, fix="remove the folder, or name another one with --output"))
    return {**protocol, "rules": {name: present_wording(rule) for name, rule in protocol["rules"].items()}}


def read_results(experiment: Experiment, folder: Path) -> tuple[Setup, JSON, JSON]:
    """Return the setup, the protocol and the result of a folder with finished results of an experiment.

    Raises:
        RLTransformerError: No such results, or results of another experiment or recipe.
    """
    if not (folder / "result.json").exists() or not (folder / "protocol.json").exists():
        fix = f"name a folder with --output, or make it with rlt reproduce {experiment.name}"
        raise RLTransformerError("holds no finished results of rlt reproduce", where=folder, fix=fix)
    result = read_json(folder / "result.json", fix="repeat the run")
    protocol = read_protocol(folder / "protocol.json")
    if result["name"] != experiment.name:
        fix = f"rlt reproduce {result['name']}"
        raise RLTransformerError(f"holds results of {result['name']}", where=folder, fix=fix)
    setup = Setup(
        quick=protocol["quick"],
        seeds=result["seeds"],
        output=folder,
        data=protocol["data"],
        env_id=protocol["env_id"],
        tuning_data=protocol.get("tuning_data"),
        game=protocol.get("game"),
        replay=protocol.get("replay"),
    )
    if protocol["recipe"] != read_back(experiment.recipe(setup)):
        raise RLTransformerError(
            "holds results made with another recipe",
            where=folder,
            fix="remove it and repeat, to measure with the present one",
        )
    return setup, protocol, result


def read_back(value: object) -> object:
    """Return a value as it would be read from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))


def present_wording(text: str) -> str:
    """Return the present wording of a rule, or of a row of the table, of an earlier version."""
    for earlier, present in _REWORDED:
        text = text.replace(earlier, present)
    return text


def _make_protocol(experiment: Experiment, setup: Setup, data: JSON | None) -> JSON:
    protocol = {
        "name": experiment.name,
        "quick": setup.quick,
        "data": setup.data,
        "env_id": setup.env_id,
        "tuning_data": setup.tuning_data,
        "game": setup.game,
        "recipe": experiment.recipe(setup),
        "rules": experiment.rules,
        "presets": {name: options_not_at_default(PRESETS[name]()) for name in ("fast", "gym", "key-to-door")},
    }
    return protocol if data is None else {**protocol, "identity_of_data": data}


def _refuse_another_protocol(before: JSON, now: JSON, folder: Path) -> None:
    # Earlier versions wrote fewer fields: what is not there is not compared.
    changed = [key for key in now if key in before and before[key] != read_back(now[key])]
    if changed:
        fix = "name another folder with --output, or remove this one to start again"
        if changed == ["rules"]:
            fix = (
                f"hold its results against the present rules with --judge-again, which keeps the earlier ones; or {fix}"
            )
        raise RLTransformerError(f"holds results made with another {', '.join(changed)}", where=folder, fix=fix)


def _migrate_options(value: Any) -> Any:
    """Return JSON values with the present names and values of all options (section.field) in them."""
    if isinstance(value, dict):
        return dict(migrate_option(name, _migrate_options(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return [_migrate_options(inner) for inner in value]
    return value
