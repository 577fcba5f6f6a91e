"""Write the model card of a policy: what it learned from, what it scores and beside which baseline, and its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rl_transformer.evaluation.stored_reports import StoredReport
from rl_transformer.policy import Policy
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.policy.targets import usual_target
from rl_transformer.runtime.types import JsonObject

_HEADER = [
    "| policy | environment | target return | mean return | interval | over |",
    "| --- | --- | --- | --- | --- | --- |",
]


def make_card(
    policy: Policy,
    *,
    repository: str,
    report: StoredReport | None,
    baselines: Sequence[tuple[str, StoredReport]],
    license_id: str | None,
) -> str:
    """Return the card as Markdown, with the header that the Hub reads.

    Args:
        policy: The policy.
        repository: ORG/NAME on the Hub.
        report: Its evaluation; None if there is none, and the card then says so.
        baselines: (name, evaluation) of policies to set beside it, above all the cloning of the best episodes (%BC).
        license_id: Licence in the Hub's spelling, such as mit.
    """
    spec = policy.spec
    parts = [
        _front_matter(license_id),
        f"# {repository.rpartition('/')[2]}\n\nA policy for {_space_text(spec)}, learned offline from logged episodes with "
        f"rl-transformer: {_kind(spec)}, {sum(p.numel() for p in policy.model.parameters()):,} parameters.",
        "## How to act\n\n" + _how_to_act(repository, spec),
        "## Training data\n\n" + _data(spec),
        "## Scores\n\n" + _scores(report, baselines),
        "## Target returns\n\n" + _targets(spec),
        "## Limits\n\n" + _limits(spec, license_id),
    ]
    return "\n\n".join(parts) + "\n"


def code(text: object) -> str:
    """Return text of unknown origin as inline code, in which Markdown and HTML mean nothing."""
    plain = " ".join(str(text).replace("`", "'").split())
    return f"`{plain[:300]}`" if plain else "(empty)"


def _front_matter(license_id: str | None) -> str:
    lines = ["---", "library_name: rl-transformer", "pipeline_tag: reinforcement-learning"]
    if license_id:
        lines.append(f"license: {json.dumps(license_id)}")  # quoted, so that no text can add a line of its own
    lines += ["tags:", *(f"- {tag}" for tag in ("offline-rl", "decision-transformer", "reinforcement-learning")), "---"]
    return "\n".join(lines)


def _kind(spec: PolicySpec) -> str:
    if spec.arch == "behavior_cloning":
        return "behavior cloning by an MLP"
    names = [condition.name.replace("_", "-") for condition in spec.conditions]
    return f"a Decision Transformer conditioned on {', '.join(names)}" if names else "behavior cloning by a transformer"


def _space_text(spec: PolicySpec) -> str:
    environment = code(spec.data.env_id) if spec.data.env_id else "an environment that the data does not name"
    return f"{environment} ({spec.data.action_space.kind.replace('_', '-')} actions)"


def _how_to_act(repository: str, spec: PolicySpec) -> str:
    target = f"target_return={usual:g}" if (usual := usual_target(spec)) is not None else ""
    lines = [
        "```python",
        "from rl_transformer import load_policy",
        "",
        f'session = load_policy("hub:{repository}@REVISION").session({target})  # pin the revision: a commit hash',
        "action = session.act(observation)",
        "session.observe(reward)  # after the environment's step, before the next act",
        "```",
        "",
        "`pip install 'rl-transformer[hub]'`. The folder holds JSON and safetensors only; loading it runs no code from it.",
    ]
    return "\n".join(lines)


def _data(spec: PolicySpec) -> str:
    data = spec.dataset
    lines = [
        f"- origin: {code(spec.data.source or 'not recorded')}",
        f"- size: {data.get('num_trajectories', '?'):,} episodes, {data.get('num_steps', '?'):,} steps"
        if isinstance(data.get("num_steps"), int)
        else "- size: not recorded",
        f"- fingerprint (SHA-256 of its content): {code(data.get('fingerprint', 'not recorded'))}",
    ]
    if spec.return_quantiles is not None:
        low, median, high = (spec.return_quantiles[index] for index in (0, 50, 100))
        lines.append(f"- returns of its episodes: {low:g} to {high:g}, median {median:g}")
    return "\n".join(lines)


def _scores(report: StoredReport | None, baselines: Sequence[tuple[str, StoredReport]]) -> str:
    rows = [] if report is None else _rows("this policy", report)
    for name, baseline in baselines:
        rows += _rows(code(name), baseline)
    # A lone score reads like a success, so the card names what would be needed to judge it.
    missing = []
    if report is None:
        missing.append(
            "This policy was pushed without an evaluation: nothing is known about the return that it achieves."
        )
    if not baselines:
        missing.append(
            "There is no baseline to compare with. The one to beat is behavior cloning of the best episodes (%BC), which is often as good."
        )
    table = [*_HEADER, *rows] if rows else []
    return "\n".join([*table, *([""] if table and missing else []), *missing])


def _rows(name: str, report: StoredReport) -> list[str]:
    return [_row(name, report.values["env_id"], entry) for entry in report.values["targets"]]


def _row(name: str, env_id: str, entry: JsonObject) -> str:
    target = "-" if entry.get("target_return") is None else f"{entry['target_return']:g}"
    returns = entry["episode_returns"]
    interval = entry.get("interval")
    shown = "-" if interval is None else f"[{interval[0]:g}, {interval[1]:g}]"
    over = str(entry.get("interval_over") or "episodes").replace("_", " ")
    return f"| {name} | {code(env_id)} | {target} | {sum(returns) / len(returns):g} | {shown} | {len(returns)} episodes, interval over {over} |"


def _targets(spec: PolicySpec) -> str:
    if not spec.takes_target:
        return "This policy takes no target return."
    listed = ", ".join(f"{target:g}" for target in spec.suggested_targets)
    low_high = spec.target_ranges.get("return_to_go")
    inside = (
        ""
        if low_high is None
        else f" The training episodes lie in [{low_high[0]:g}, {low_high[1]:g}]; beyond, expect extrapolation."
    )
    usual = usual_target(spec)
    advised = "" if usual is None else f"Advised: {usual:g}. "
    return f"{advised}Quartiles and maximum of the data, or as configured: {listed}.{inside}"


def _limits(spec: PolicySpec, license_id: str | None) -> str:
    licence = f"Licence: {license_id}." if license_id else "No license is given; ask the owner before using it."
    return "\n".join(
        [
            f"- It sees the last {spec.context_length} timesteps, and knows only situations like those of its data.",
            f"- Actions are {'drawn from its distribution' if spec.action_selection == 'sample' else 'its best guess, without randomness'}.",
            "- Intervals over episodes say nothing about another training seed.",
            f"- {licence}",
        ]
    )
