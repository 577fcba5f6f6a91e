"""The verdict as text for a terminal and as one HTML page."""

from __future__ import annotations

from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from rl_transformer.evaluation import plots
from rl_transformer.runtime.types import JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SENTENCES = {
    "better": "The policy earns more than {against}.",
    "worse": "The policy earns less than {against}.",
    "not established": "These logs do not establish whether the policy earns more or less than {against}.",
}
_COLORS = {"better": "#1d6b3a", "worse": "#a3200d", "not established": "#5a6472"}
_BEHAVIOR = "the behavior that produced the log"
_WORTH_SAYING = 1.5
"""Factor of the usual width from which the page explains why an interval is wide."""

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1b2a41;max-width:56rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.1rem;font-weight:600;margin:0;color:#5a6472}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.word{font-size:2.6rem;font-weight:700;margin:.2rem 0}.lead{font-size:1.15rem;margin:.2rem 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}th,td{text-align:left;padding:.35rem .6rem;vertical-align:top;
border-bottom:1px solid #dfe5ec}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
figure{margin:1rem 0}figcaption{font-size:.9rem;color:#5a6472}svg{max-width:100%;height:auto}
.decides td{font-weight:600}.failed{color:#a3200d;font-weight:600}.small{font-size:.88rem;color:#5a6472}
"""


def as_text(result: JsonObject) -> str:
    """Return the verdict with its reasons for a terminal."""
    lines = [
        f"{result['verdict'].upper()}: {_sentence(result)}",
        f"  {_difference_sentence(result)}",
        f"  margin {result['margin']:g}; assumes: {result['rests_on']['assumptions']}",
    ]
    lines += [f"  why not: {reason}" for reason in result["reasons"]]
    lines += [f"  would settle it: {advice}" for advice in result["what_would_settle"]["advice"]]
    lines.append(f"behavior: {_estimate_text(result['behavior'])}; propensities {result['behavior']['propensities']}")
    lines += [f"{_words(name)}: {_estimate_text(each)}" for name, each in result["estimates"].items()]
    lines += [f"gate {gate['name']}: {gate['state']}; {gate['text']}" for gate in result["gates"]]
    return "\n".join(lines)


def as_html(result: JsonObject) -> str:
    """Return the page; it needs no other file and no network. Everything that comes from outside is escaped."""
    word = result["verdict"]
    title = f"{result['run']} on {result['data']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="word" style="color:{_COLORS[word]}">{escape(word.capitalize())}</p>',
        f'<p class="lead">{escape(_sentence(result))} {escape(_difference_sentence(result))}</p>',
        _list("Why it is not established", result["reasons"]),
        _list("What would settle it", result["what_would_settle"]["advice"]),
        "<h2>What the policy would earn</h2>",
        _figure(
            _draw_estimates(result),
            f"{_belief(result)}Points are estimates, bars 90 % intervals; dashed: the logged mean.",
        ),
        _estimate_table(result),
        "<h2>Does the log cover what the policy would do?</h2>",
        f"<p>{escape(_support_sentence(result))}</p>",
        _figure(_draw_support(result), "Share of the policy's actions that the behavior rarely or never takes.")
        if result["support"]["unsupported"] > 0
        else "",
        "<h2>Does the policy act like the log?</h2>",
        _figure(_draw_likelihood(result), escape(result["likelihood"]["measure"].capitalize()) + "."),
        "<h2>What was checked</h2>",
        _gate_table(result),
        f'<p class="small">Rule, fixed in advance: {escape(result["rule"])}. Target return: '
        f"{_target_text(result['target'])}. Propensities: {escape(result['behavior']['propensities'])}. "
        f"Policy {escape(result['policy'][:12])}.</p>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(word)}: {escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _target_text(target: JsonObject) -> str:
    if target["target_return"] is None:
        return "none"
    number = _number(target["target_return"])
    return f"advised at the start of each episode, {number} over all starts" if target["depends_on_start"] else number


def _sentence(result: JsonObject) -> str:
    # Names of runs come from the command line, so that nothing here may assume what they hold; as_html escapes them.
    against = _BEHAVIOR if result["against"] == "behavior" else result["against"]
    return _SENTENCES[result["verdict"]].format(against=against)


def _difference_sentence(result: JsonObject) -> str:
    """Return the difference in words, or why no number is given."""
    difference = result["difference"]
    behavior = result["behavior"]
    if not difference["supported"]:
        return "No difference is reported: without support, the estimates below are not valid."
    wider = difference["widened_by"]
    widened = (
        ""
        if wider < _WORTH_SAYING
        else f" The interval is {wider:.1f} times as wide as the episodes alone would make it, because the halves of the log disagree."
    )
    return (
        f"Estimated difference per episode: {_number(difference['value'])} {_interval(difference['interval'])} (90 % interval over "
        f"{result['rests_on']['unit']}, {_words(result['rests_on']['estimator'])}); the {behavior['episodes']:,} logged "
        f"episodes earn {_number(behavior['value'])} on average.{widened}"
    )


def _belief(result: JsonObject) -> str:
    return "" if result["difference"]["supported"] else "Do not quote these: without support none of them is valid. "


def _support_sentence(result: JsonObject) -> str:
    support = result["support"]
    # All limits are shown beside the figures: a reader must not have to look them up to see which one failed.
    tail = "no tail to fit" if support["pareto_k"] is None else f"Pareto k {support['pareto_k']:.2f} (0.7 is the limit)"
    # Only products of ratios have such a mean.
    mean = (
        ""
        if support["mean_weight"] is None
        else "weights average {:.2f} (1 if propensities are right); ".format(support["mean_weight"][0])
    )
    return (
        f"Weighted by how the policy acts, the {result['behavior']['episodes']:,} episodes have an effective sample size of {support['effective_sample_size']:,.0f} (100 are needed); the heaviest one carries {support['largest_share']:.1%} of the "
        f"weight; {tail}; {mean}{support['unsupported']:.1%} of the policy's actions have a behavior probability below "
        f"{support['floor']:g}."
    )


def _estimate_table(result: JsonObject) -> str:
    rows = [("behavior (logged mean)", result["behavior"], False)]
    decides = result["rests_on"]["estimator"]
    rows += [(_words(name), each, name == decides) for name, each in result["estimates"].items()]
    rows += [
        (f"{result['against']}: {_words(name)}", each, name == decides)
        for name, each in result["other_estimates"].items()
        if result["against"] != "behavior"
    ]
    body = "".join(
        f"<tr{' class=decides' if chosen else ''}><td>{escape(name)}{' (decides)' if chosen else ''}</td>"
        f'<td class="n">{_number(each["value"])}</td><td class="n">{_interval(each["interval"])}</td>'
        f"<td>{escape(each['unit'])}</td><td>{escape(each['assumptions'])}{_doubt_html(each)}</td></tr>"
        for name, each, chosen in rows
    )
    return (
        "<table><tr><th>estimator</th><th>return</th><th>90 % interval</th><th>over</th><th>assumptions</th></tr>"
        f"{body}</table>"
    )


def _doubt_html(each: JsonObject) -> str:
    # The behavior's logged mean has no such entry: it cannot lie outside of the log.
    doubt = each.get("doubt")
    return f'; <span class="failed">{escape(doubt)}</span>' if doubt else ""


def _gate_table(result: JsonObject) -> str:
    body = "".join(
        f'<tr><td>{escape(gate["name"])}</td><td class="{"failed" if gate["state"] == "failed" else "n"}">'
        f"{escape(gate['state'])}</td><td>{escape(gate['text'])}</td></tr>"
        for gate in result["gates"]
    )
    return f"<table><tr><th>check</th><th>result</th><th></th></tr>{body}</table>"


def _list(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    return f"<h2>{escape(title)}</h2><ul>{''.join(f'<li>{escape(entry)}</li>' for entry in entries)}</ul>"


def _figure(drawn: Figure, caption: str) -> str:
    """Return a drawing as inline SVG; its text is escaped by matplotlib."""
    from matplotlib import rc_context

    text = StringIO()
    # Without a date and with fixed identifiers the same result makes the same page.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": caption, "svg.fonttype": "none"}):
        drawn.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{caption}</figcaption></figure>"


def _draw_estimates(result: JsonObject) -> Figure:
    """Draw estimates with intervals; what lies far outside of the logged returns is cut, because it says nothing."""
    estimates = result["estimates"]
    drawn, axes = plots.figure(7.5, 0.42 * len(estimates) + 1.1)
    behavior = result["behavior"]["value"]
    quantiles = result["target"]["logged_quantiles"]
    span = max(quantiles[-1] - quantiles[0], 1e-9)
    # Drawn from below, so that the order on the page is that of the table under it.
    names = list(estimates)[::-1]
    for place, name in enumerate(names):
        each = estimates[name]
        color = plots.ACCENT if name == result["rests_on"]["estimator"] else plots.INK
        low, high = each["interval"] or (each["value"], each["value"])
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot([each["value"]], [place], "o", color=color)
    axes.axvline(behavior, color=plots.INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), [_words(name) for name in names])
    # Importance sampling may say 40 or -7 where returns are 0 and 1; the axis stays with what episodes can earn.
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, quantiles[0] - span), min(high, quantiles[-1] + span))
    axes.set_xlabel("return per episode")
    return drawn


def _draw_support(result: JsonObject) -> Figure:
    """Draw where the policy does what the behavior rarely does: by timestep and by return of the episode."""
    from matplotlib.figure import Figure

    # Not plots.figure, which has one pair of axes; both share the scale, so that their bars can be compared.
    drawn = Figure(figsize=(7.5, 2.6), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    support = result["support"]
    _bars(left, [_range(p["first"], p["last"]) for p in support["by_timestep"]], support["by_timestep"], "timesteps")
    _bars(
        right,
        [_range(p["low"], p["high"]) for p in support["by_return"]],
        support["by_return"],
        "return of the episode",
    )
    left.set_ylabel("unsupported actions, %")
    return drawn


def _bars(axes: Axes, labels: list[str], places: list[JsonObject], what: str) -> None:
    axes.bar(range(len(labels)), [100 * place["unsupported"] for place in places], color=plots.ACCENT)
    axes.set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 4 else 0, fontsize=8)
    # A scale of its own for half a percent would make a mountain of nothing.
    axes.set_ylim(0, max(5.0, axes.get_ylim()[1]))
    axes.set_xlabel(what)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_likelihood(result: JsonObject) -> Figure:
    """Draw the probability of logged actions by return decile, beside the baselines."""
    drawn, axes = plots.figure(7.5, 2.8)
    places = result["likelihood"]["by_return"]
    styles = {"policy": plots.ACCENT, "behavior_cloning": plots.INK, "majority_action": "#7a8794", "chance": plots.PALE}
    styles["mean_action"] = styles["majority_action"]
    # Action vectors have no chance and no majority.
    for name, color in ((name, color) for name, color in styles.items() if name in places[0]):
        axes.plot(range(len(places)), [place[name] for place in places], "o-", color=color, label=_words(name))
    labels = [_range(place["low"], place["high"]) for place in places]
    axes.set_xticks(range(len(places)), labels, rotation=30 if len(labels) > 4 else 0, fontsize=8)
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))
    axes.set_xlabel("return of the episode")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return drawn


def _range(low: float, high: float) -> str:
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _words(name: str) -> str:
    return name.replace("_", " ").replace("fitted q", "fitted Q")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(bounds: list[float] | None) -> str:
    return "no interval" if bounds is None else f"[{_number(bounds[0])}, {_number(bounds[1])}]"


def _estimate_text(each: JsonObject) -> str:
    doubt = f"; {each['doubt'].upper()}" if each.get("doubt") else ""
    return f"{_number(each['value'])} {_interval(each['interval'])} over {each['unit']}; assumes {each['assumptions']}{doubt}"
