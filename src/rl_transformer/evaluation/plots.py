"""Draw charts of target against achieved returns, and of data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_transformer.runtime.files import write_output
from rl_transformer.runtime.types import JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rl_transformer.evaluation.report import EvaluationReport

INK = "#1b2a41"
ACCENT = "#c1440e"
PALE = "#c9d3df"


def figure(width: float = 7.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """Return a figure and its axes; sizes are in inches."""
    # Figure instead of pyplot: pyplot selects a backend that may need a screen, and keeps every figure in memory.
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def plot_target_vs_achieved(reports: dict[str, EvaluationReport], data_returns: Sequence[float], path: Path) -> None:
    """Draw mean achieved return against target return with 95 % intervals, over a histogram of the data's returns.

    Args:
        reports: Evaluations by the name of the policy; the first one is highlighted. Policies that take no target are
            drawn as horizontal lines.
        data_returns: Returns of the training data, in the unit of the targets (`ReturnToGo.comparable`).
        path: PNG to write.

    Raises:
        RLTransformerError: The file cannot be written.
    """
    drawn, axes = figure()
    data = np.asarray(data_returns)
    # A second y axis for the counts; they have another unit than the returns.
    behind = axes.twinx()
    _histogram(behind, data, 40, color=PALE, zorder=0)
    behind.set_yticks([])
    behind.spines[:].set_visible(False)
    # Twin axes are drawn on top by default. Swapping the order would hide the histogram behind an opaque background.
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.axvline(float(data.max()), color=INK, linestyle=":", linewidth=1, label="largest return in the data")
    # The diagonal spans data and targets, so that targets beyond the data show as extrapolation.
    span = [float(data.min()), float(data.max())]
    for index, (name, report) in enumerate(reports.items()):
        color = ACCENT if index == 0 else f"C{index}"
        achieved = [t.comparable for t in report.targets]
        means = [mean for mean, _ in achieved]
        errors = np.array([[mean - ends[0], ends[1] - mean] if ends else [0, 0] for mean, ends in achieved]).T
        targets = [t.target_return for t in report.targets if t.target_return is not None]
        if len(targets) < len(report.targets):
            axes.axhline(means[0], color=color, label=name)
            continue
        span += targets
        axes.errorbar(targets, means, yerr=errors, color=color, marker="o", capsize=3, label=name)
    # Below this line a policy achieves less than its target, above it more.
    ends = [min(span), max(span)]
    axes.plot(ends, ends, color=INK, linewidth=1, alpha=0.4, label="achieved = target")
    axes.set_xlabel("target return (gray: returns in the data)")
    axes.set_ylabel("achieved return, mean and 95 % interval")
    axes.legend(frameon=False)
    save(drawn, path)


def bars(axes: Axes, rows: Sequence[tuple[str, JsonObject]], label: str, dots: str = "seeds") -> None:
    """Draw scores of `over_seeds` as horizontal bars with their intervals, and every value as a dot; ``dots`` says what."""
    heights = np.arange(len(rows))[::-1]  # matplotlib counts upwards; the first row belongs at the top
    for height, (_, score) in zip(heights, rows, strict=True):
        mean = score["mean"]
        interval = score["interval"]
        errors = None if interval is None else [[mean - interval[0]], [interval[1] - mean]]
        axes.barh(height, mean, xerr=errors, color=PALE, ecolor=ACCENT, capsize=3)
        axes.plot(score["values"], [height] * len(score["values"]), "o", color=INK, markersize=3)
    axes.set_yticks(heights, [title for title, _ in rows])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"{label}\n(dots: {dots}; bars: their mean, with 95 % interval)")


def _histogram(axes: Axes, values: Sequence[float] | np.ndarray, bins: int, **style: Any) -> None:
    """Draw a histogram; a single bar for values so large and so close together that numbers have no room between them."""
    try:
        axes.hist(values, bins=bins, **style)
    except ValueError:
        axes.bar([float(np.mean(values))], [len(values)], **style)


def plot_data(episode_returns: Sequence[float], lengths: Sequence[int], path: Path) -> None:
    """Draw histograms of the returns and lengths of a dataset's episodes."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 3), layout="constrained")
    for axes, values, name in zip(drawn.subplots(1, 2), (episode_returns, lengths), ("return", "length"), strict=True):
        _histogram(axes, values, 50, color=INK)
        axes.set_xlabel(f"{name} of an episode")
        axes.spines[["top", "right"]].set_visible(False)
    save(drawn, path)


def save(drawn: Figure, path: Path) -> None:
    """Write a figure in the format that the suffix names, PNG without one.

    Raises:
        RLTransformerError: The file cannot be written.
    """
    write_output(path, lambda temporary: drawn.savefig(temporary, dpi=120, format=path.suffix[1:] or "png"))
