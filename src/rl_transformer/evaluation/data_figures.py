"""Draw what a dataset holds: returns, lengths, where observations and actions lie, gaps, and what differs from other data."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.evaluation.plots import ACCENT, INK, PALE, figure
from rl_transformer.trajectories.column_checks import is_time
from rl_transformer.trajectories.columns import STEP_COLUMNS
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.feature_names import action_names, observation_names
from rl_transformer.trajectories.sampled_steps import SampledSteps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 6.0
_HEIGHT = 3.1
_MOST_FEATURES = 24
_MOST_ACTIONS = 40
_LONGEST_NAME = 24


@dataclass(frozen=True)
class Figure:
    """Holds a figure and what it shows."""

    png: str
    """The file in base64."""
    caption: str


def data_figures(dataset: TrajectoryDataset, against: TrajectoryDataset | None = None) -> list[Figure]:
    """Return the figures of a dataset; those of ``against`` are drawn into them in another color."""
    every = [dataset] if against is None or not len(against) else [dataset, against]
    samples = [SampledSteps.of(data) for data in every]
    figures = [
        _drawn(lambda axes: _histograms(axes, [d.episode_returns for d in every], "return of an episode"),
               "Returns of episodes: the range in which a target return makes sense."),
        _drawn(lambda axes: _histograms(axes, [d.lengths for d in every], "steps of an episode"),
               "Lengths of episodes."),
    ]  # fmt: skip
    return [*figures, *_of_steps(dataset, every, samples), *_of_times(every), *_of_differences(dataset, samples)]


def _of_steps(
    dataset: TrajectoryDataset, every: list[TrajectoryDataset], samples: list[SampledSteps]
) -> Iterator[Figure]:
    """Yield figures of observations and actions."""
    names = observation_names(dataset.spec)
    if samples[0].observations.shape[1] and all(sample.num_steps for sample in samples):
        chosen = _chosen(samples[0].observations)
        caption = "Coverage of observations, each in its own unit: line 1 % to 99 % of the values, bar the middle half."
        if len(names) > len(chosen):
            caption += f" {len(chosen)} of {len(names)} are drawn."
        height = max(_HEIGHT, 0.8 + 0.22 * len(chosen))
        yield _drawn(lambda axes: _ranges(axes, samples, chosen, names), caption, height)
    if not all(sample.num_steps for sample in samples):
        return
    if samples[0].is_continuous:
        caption = "Support of actions within their bounds: darker means more frequent."
        actions = [sample.actions for sample in samples]
        bounds = dataset.spec.action_space.bounds
        yield _drawn(lambda axes: _support(axes, actions, bounds, action_names(dataset.spec)), caption)
    elif samples[0].actions.shape[1] == 1:
        caption = "Share of each discrete action."
        yield _drawn(lambda axes: _shares(axes, dataset, samples), caption)


def _of_times(every: list[TrajectoryDataset]) -> Iterator[Figure]:
    """Yield a figure of the pauses between steps, if a further column holds times."""
    names = [name for name in sorted(set(every[0].columns) - set(STEP_COLUMNS)) if is_time(name)]
    if not names or not all(names[0] in data.columns for data in every):
        return
    pauses = []
    for data in every:
        inside = np.ones(max(data.num_steps - 1, 0), bool)
        inside[data.offsets[1:-1] - 1] = False
        differences = np.diff(np.asarray(data.columns[names[0]]).reshape(data.num_steps, -1)[:, 0])[inside]
        pauses.append(np.log10(differences[differences > 0].astype(np.float64)))
    if all(len(values) for values in pauses):
        label = f"pause between steps in {_short(names[0])}, powers of ten"
        yield _drawn(
            lambda axes: _histograms(axes, pauses, label, is_log=True), "Gaps: pauses far to the right of all others."
        )


def _of_differences(dataset: TrajectoryDataset, samples: list[SampledSteps]) -> Iterator[Figure]:
    """Yield a figure of how far the means of the features differ between two datasets."""
    if len(samples) < 2 or not samples[0].observations.shape[1] or not all(sample.num_steps for sample in samples):
        return
    ours, theirs = (
        (np.column_stack([s.observations, s.action_numbers]) for s in samples[:2])
        if _fit(samples)
        else (
            samples[0].observations,
            samples[1].observations,
        )
    )
    spread = ours.std(axis=0)
    size = np.where(spread > 0, (theirs.mean(axis=0) - ours.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)
    names = observation_names(dataset.spec)
    names += action_names(dataset.spec) if samples[0].is_continuous else [f"action {i}" for i in range(len(size))]
    largest = np.argsort(-np.abs(size), kind="stable")[:_MOST_FEATURES]

    def draw(axes: Axes) -> None:
        heights = np.arange(len(largest))[::-1]
        axes.barh(heights, size[largest], color=[ACCENT if abs(v) >= 0.5 else PALE for v in size[largest]])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(heights, [_short(names[i]) for i in largest], fontsize=8)
        axes.set_xlabel("difference of the means, in standard deviations")

    caption = "Drift: how far the means of observations and actions have moved; half a standard deviation is a lot."
    yield _drawn(draw, caption, max(_HEIGHT, 0.8 + 0.22 * len(largest)))


def _fit(samples: list[SampledSteps]) -> bool:
    return samples[0].action_numbers.shape[1] == samples[1].action_numbers.shape[1]


def _drawn(draw: Callable[[Axes], object], caption: str, height: float = _HEIGHT) -> Figure:
    drawn, axes = figure(_WIDTH, height)
    draw(axes)
    # PNG and not SVG: nothing that a name contains can become markup.
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=130, format="png")
    return Figure(base64.b64encode(buffer.getvalue()).decode(), caption)


def _histograms(axes: Axes, several: list[np.ndarray], label: str, *, is_log: bool = False) -> None:
    finite = [np.asarray(values, np.float64)[np.isfinite(values)] for values in several]
    joined = np.concatenate(finite)
    low, high = (float(joined.min()), float(joined.max())) if len(joined) else (0.0, 1.0)
    # Numbers so close together that there is no room for bins between them get one bar.
    is_wide = np.isfinite(high - low) and high - low > 1e-9 * max(abs(low), abs(high), 1e-300)
    edges = np.linspace(low, high, 41) if is_wide else np.array([low - 0.5, low + 0.5])
    for index, values in enumerate(finite):
        # Shares and not counts, so that data sets of other sizes can be compared.
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(
            values, bins=edges.tolist(), weights=weights, color=ACCENT if index else INK, alpha=0.65 if index else 1
        )
    if is_log:
        axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("share")


def _chosen(observations: np.ndarray) -> np.ndarray:
    """Return the features to draw: all, or those that vary, evenly spread."""
    varying = np.flatnonzero(observations.std(axis=0) > 0)
    features = varying if varying.size else np.arange(observations.shape[1])
    return features[np.unique(np.linspace(0, len(features) - 1, min(len(features), _MOST_FEATURES)).astype(int))]


def _ranges(axes: Axes, samples: list[SampledSteps], chosen: np.ndarray, names: list[str]) -> None:
    # Every feature in the units of the first data's own range: their values have nothing else in common.
    first = samples[0].observations[:, chosen]
    low, high = np.quantile(first, [0.01, 0.99], axis=0)
    middle, half = (high + low) / 2, np.where(high > low, (high - low) / 2, 1.0)
    heights = np.arange(len(chosen))[::-1].astype(float)
    for index, sample in enumerate(samples):
        values = (sample.observations[:, chosen] - middle) / half
        levels = np.clip(np.quantile(values, [0.01, 0.25, 0.5, 0.75, 0.99], axis=0), -4, 4)
        color = INK if index == 0 else ACCENT
        at = heights + (0.14 if len(samples) > 1 else 0) * (1 - 2 * index)
        axes.hlines(at, levels[0], levels[4], color=color, linewidth=1)
        axes.hlines(at, levels[1], levels[3], color=color, linewidth=5)
        axes.plot(levels[2], at, "o", color="white", markersize=3)
    axes.set_yticks(heights, [_short(names[i]) for i in chosen], fontsize=8)
    axes.set_xticks([-1, 0, 1], ["1 %", "middle", "99 %"])


def _support(axes: Axes, several: list[np.ndarray], bounds: tuple[np.ndarray, np.ndarray], names: list[str]) -> None:
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in bounds)
    seen = np.concatenate(several)
    low = np.where(np.isfinite(low), low, seen.min(axis=0))
    high = np.where(np.isfinite(high), high, seen.max(axis=0))
    count = min(len(low), _MOST_FEATURES)
    rows, labels = [], []
    for index in range(count):
        for which, actions in enumerate(several):
            width = high[index] - low[index] or 1.0
            counts, _ = np.histogram(np.clip((actions[:, index] - low[index]) / width, 0, 1), bins=48, range=(0, 1))
            # Roots show what is rare, which is what support is about.
            rows.append(np.sqrt(counts / max(counts.max(), 1)))
            mark = " (compared)" if which else ""
            labels.append(f"{_short(names[index])}{mark}\n{low[index]:.3g} ... {high[index]:.3g}")
    axes.imshow(np.array(rows), aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=(0, 1, len(rows), 0))
    axes.set_yticks(np.arange(len(rows)) + 0.5, labels, fontsize=7)
    axes.set_xticks([0, 0.5, 1], ["lower bound", "", "upper bound"])


def _shares(axes: Axes, dataset: TrajectoryDataset, samples: list[SampledSteps]) -> None:
    space = dataset.spec.action_space
    sizes = int(space.n or max(s.actions.max() for s in samples) + 1)
    shares = [np.bincount(s.actions[:, 0].astype(int), minlength=sizes)[:sizes] / s.num_steps for s in samples]
    shown = np.sort(np.argsort(-shares[0], kind="stable")[:_MOST_ACTIONS])
    width = 0.8 / len(shares)
    for index, share in enumerate(shares):
        axes.bar(np.arange(len(shown)) + index * width, share[shown], width, color=INK if index == 0 else ACCENT)
    table = dataset.spec.table
    values = table.action_values[0] if table is not None and table.action_values else None
    labels = [_short(str(values[i])) if values else str(i + space.start) for i in shown]
    axes.set_xticks(
        np.arange(len(shown)) + (len(shares) - 1) * width / 2, labels, rotation=45 if values else 0, fontsize=8
    )
    axes.set_ylabel("share of the steps")


def _short(name: str) -> str:
    """Return a name for a figure: in one line, not too long, and without formulas."""
    line = "".join(character if character.isprintable() else " " for character in name).replace("$", r"\$")
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
