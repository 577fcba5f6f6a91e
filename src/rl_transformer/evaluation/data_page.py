"""Describe a dataset on one page of HTML, which needs no network and no script.

Whatever comes from the data, such as the names of columns, is escaped; figures are PNG files inside the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from rl_transformer.evaluation.data_figures import Figure, data_figures
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.finding_kinds import finding_kinds
from rl_transformer.trajectories.findings import LEVELS, Finding
from rl_transformer.trajectories.inspection import describe

_STYLE = """
:root { --ink: #1b2a41; --soft: #5b6b80; --line: #dfe5ec; --error: #b3261e; --warning: #b26a00; --info: #3a6ea5; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; }
p { margin: 0 0 8px; }
.soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(124px, 1fr)); gap: 12px; margin-top: 20px; }
.card, figure, table { background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.card { padding: 12px 16px; }
.card b { display: block; font-size: 22px; font-weight: 600; }
.verdict { margin-top: 20px; padding: 12px 16px; border-radius: 8px; border-left: 5px solid; background: #fff; }
.error { border-color: var(--error); } .warning { border-color: var(--warning); } .info { border-color: var(--info); }
.good { border-color: #2e7d32; }
table { width: 100%; border-collapse: separate; border-spacing: 0; overflow: hidden; }
th, td { text-align: left; vertical-align: top; padding: 9px 12px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
th { border-top: 0; font-weight: 600; color: var(--soft); font-size: 13px; }
td.place { white-space: nowrap; }
th:nth-child(1) { width: 96px; } th:nth-child(2) { width: 44%; } th:nth-child(3) { width: 128px; }
.level { display: inline-block; white-space: nowrap; padding: 1px 8px; border-radius: 10px; color: #fff; font-size: 12px; font-weight: 600; }
.level.error { background: var(--error); } .level.warning { background: var(--warning); } .level.info { background: var(--info); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; }
figure { margin: 0; padding: 12px; }
figure img { width: 100%; display: block; }
figcaption { color: var(--soft); font-size: 13px; padding: 4px 6px 0; }
.legend { display: inline-block; width: 11px; height: 11px; border-radius: 2px; vertical-align: -1px; margin: 0 4px 0 10px; }
@media (max-width: 560px) { .figures { grid-template-columns: 1fr; } td.place { white-space: normal; } }
@media print { body { background: #fff; } figure, tr { break-inside: avoid; } }
"""


def data_page(
    dataset: TrajectoryDataset,
    leakage: Iterable[Finding] = (),
    against: TrajectoryDataset | None = None,
    differences: Iterable[Finding] = (),
) -> str:
    """Return the page as text.

    Args:
        dataset: The data.
        leakage: Findings of `find_leakage`.
        against: Test data, which is drawn next to it.
        differences: Findings of `compare_splits`.
    """
    description = describe(dataset)
    findings = sorted([*dataset.findings, *leakage], key=lambda finding: LEVELS.index(finding.level))
    name = description["uri"] or description["source"] or "data in memory"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">observations {escape(str(dataset.spec.observation_space))} · actions '
        f"{escape(str(dataset.spec.action_space))} · fingerprint {escape(dataset.fingerprint[:12])}</p>",
        _verdict(findings),
        _cards(description),
        _findings("Findings", findings, "Nothing was found."),
    ]
    if against is not None:
        title = f"Compared with {against.location or 'the test data'}"
        parts.append(_findings(title, list(differences), "No shared content and no difference was found."))
    parts.append(_figures(data_figures(dataset, against) if len(dataset) else [], has_other=against is not None))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Even a hole in the escaping could then load and run nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _verdict(findings: list[Finding]) -> str:
    # The first line is what most readers came for.
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    if counts["error"]:
        text = f"Training would refuse this data: {counts['error']} kinds of errors."
        level = "error"
    elif counts["warning"]:
        text = f"Training would accept this data. Look at its {counts['warning']} kinds of warnings first."
        level = "warning"
    else:
        text = "Training would accept this data, and no check found anything suspicious."
        level = "good"
    return f'<p class="verdict {level}"><b>{text}</b></p>'


def _cards(description: dict) -> str:
    ends = description["ends"]
    returns, lengths = description["returns"], description["lengths"]
    cards = {
        "episodes": f"{description['num_trajectories']:,}",
        "steps": f"{description['num_steps']:,}",
        "median return": "not finite" if returns is None else f"{returns['median']:.4g}",
        "median length": "none" if lengths is None else f"{lengths['median']:.4g}",
        "terminated": f"{ends['terminated']:,}",
        "truncated": f"{ends['truncated']:,}",
        "unfinished": f"{ends['unfinished']:,}",
    }
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{escape(value)}</b><span class="soft">{name}</span></div>'
            for name, value in cards.items()
        )
        + "</div>"
    )


def _findings(title: str, findings: list[Finding], nothing: str) -> str:
    head = f"<h2>{escape(title)}</h2>"
    if not findings:
        return f'{head}<p class="soft">{nothing}</p>'
    # By kind and level, because a kind may be cured where it is an error and left where it is a warning.
    cures = {(kind.kind, kind.levels): kind.cure for kind in finding_kinds()}
    rows = []
    for finding in findings:
        position = finding.positions[0] if finding.positions else {}
        place = (
            "<br>".join(f"{escape(str(key))} {escape(str(value))}" for key, value in position.items()) or "whole data"
        )
        more = f'<br><span class="soft">{finding.count:,} in all</span>' if finding.count > 1 else ""
        cure = cures.get((finding.kind, finding.level), "")
        does = f'<br><span class="soft">--fix: {escape(cure)}</span>' if cure else ""
        rows.append(
            f'<tr><td><span class="level {finding.level}">{finding.level}</span></td>'
            f"<td><b>{escape(finding.kind)}</b><br>{escape(finding.field)}: {escape(finding.problem)}</td>"
            f'<td class="place">{place}{more}</td><td>{escape(finding.fix)}{does}</td></tr>'
        )
    columns = "".join(f"<th>{name}</th>" for name in ("level", "what", "first place", "what to do"))
    return f"{head}<table><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _figures(figures: list[Figure], *, has_other: bool) -> str:
    if not figures:
        return ""
    legend = (
        '<p class="soft"><span class="legend" style="background:#1b2a41"></span>this data'
        '<span class="legend" style="background:#c1440e"></span>compared with</p>'
        if has_other
        else ""
    )
    drawn = "".join(
        f'<figure><img alt="{escape(figure.caption)}" src="data:image/png;base64,{figure.png}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    )
    return f'<h2>Figures</h2>{legend}<div class="figures">{drawn}</div>'
