"""Verify a policy: its files, and that it acts in the same way alone, among others, after a restart and in training.

Shapes: N steps, B windows, T timesteps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rl_transformer.export.golden import golden_steps
from rl_transformer.export.promises import Report, broken
from rl_transformer.export.rules import action_tolerance, window_length
from rl_transformer.models.interface import num_parameters
from rl_transformer.policy import Policy, load_policy
from rl_transformer.policy.actions import ActionUnits
from rl_transformer.policy.gatherer import check_spaces, condition_column, make_gatherer
from rl_transformer.policy.storage import SPEC_FILE, TENSOR_FILE
from rl_transformer.runtime.files import verify_folder
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.normalization import Normalizer

_MOST_EPISODES = 8
_MOST_STEPS = 100  # of each replayed episode
# Windows are summed in other batches than live steps, and returns-to-go of the data are float32 numbers.
_WINDOW_SLACK = 100


def verify_policy(folder: Path, dataset: TrajectoryDataset | None = None) -> Report:
    """Return the promises of a policy folder.

    Args:
        folder: The policy folder.
        dataset: Logged data that is replayed; None: only steps that are drawn inside of the spaces.
    """
    report = Report(str(folder))
    loaded: list[Policy] = []

    def load() -> str:
        loaded.append(load_policy(folder))
        return f"{num_parameters(loaded[0].model):,} parameters, content {loaded[0].content_hash[:16]}"

    files_hold = report.check("its files are those that were written (SHA-256)", lambda: _check_files(folder))
    # What follows would say nothing about a policy that cannot be loaded or whose files were changed.
    if not (report.check("its format is known, and every number of it is finite", load) and files_hold):
        return report
    (policy,) = loaded
    report.check("its normalization can be inverted", lambda: _check_statistics(policy))
    report.check("a session acts the same beside others, to the bit", lambda: _act_beside_others(policy))
    report.check("a session continues the same after its state was restored, to the bit", lambda: _restore(policy))
    if dataset is not None:
        _verify_with_data(report, policy, dataset)
    return report


def _verify_with_data(report: Report, policy: Policy, dataset: TrajectoryDataset) -> None:
    """Add the promises for which logged data is needed."""
    check_spaces(policy.spec, dataset)
    if policy.spec.dataset.get("fingerprint") == dataset.fingerprint:
        report.check("its statistics are those of the data", lambda: _compare_statistics(policy, dataset))
    else:
        report.notes.append("the data is not the one that the policy was trained on: statistics are not compared")
    if policy.spec.target == "generated":
        report.notes.append("the policy generates its targets: its steps are not replayed as windows of training")
        return
    report.check("a session that replays logged steps acts as on windows of training", lambda: _replay(policy, dataset))


def _check_files(folder: Path) -> str:
    files = verify_folder(folder, required=(SPEC_FILE, TENSOR_FILE))["files"]
    return f"{len(files)} files, {sum(file['bytes'] for file in files.values()):,} bytes"


def _check_statistics(policy: Policy) -> str:
    """Return the range of the scales by which observations and actions are divided."""
    scales = {"observations": policy.normalizer.observation_scale, "actions": policy.normalizer.action_scale}
    texts = []
    for name, scale in scales.items():
        if scale is not None and scale.numel():
            if not (scale > 0).all():
                raise broken(f"the scale of {name} is {float(scale.min()):g} somewhere", "policy")
            texts.append(f"{name} are divided by {float(scale.min()):.3g} to {float(scale.max()):.3g}")
    return "; ".join(texts) or "nothing is normalized"


def _compare_statistics(policy: Policy, dataset: TrajectoryDataset) -> str:
    """Return how far the policy's statistics are from those of the data, in units of the scale."""
    spec = policy.spec
    expected = Normalizer.from_data(spec.data, dataset.statistics, action_tanh=spec.model.action_tanh)
    mine, theirs = policy.normalizer, expected
    if mine.observation_mean is None or theirs.observation_mean is None:
        return "images are not normalized"
    assert mine.observation_scale is not None
    assert theirs.observation_scale is not None
    distance = ((mine.observation_mean - theirs.observation_mean) / theirs.observation_scale).abs().max()
    ratio = (mine.observation_scale / theirs.observation_scale - 1).abs().max()
    figure = f"means differ by {float(distance):.2g} scales, scales by {float(ratio):.2g}"
    if max(float(distance), float(ratio)) > 1e-5:
        raise broken(figure, "statistics")
    return figure


def _act_beside_others(policy: Policy) -> str:
    """Return how many actions of four sessions that act together equal those of a single one."""
    steps = golden_steps(policy, seed=0)
    sessions = policy.sessions(*_starts(policy, steps, 4), targets=_further(policy, steps))
    rows = sessions.rows
    # Only the first recorded episode: the next one would need new sessions.
    count = int(np.flatnonzero(steps["is_first"])[1]) if steps["is_first"].sum() > 1 else len(steps["actions"])
    for step in range(count):
        allowed = np.stack([steps["allowed"][step]] * 4) if "allowed" in steps else None
        actions = sessions.act(rows, np.stack([steps["observations"][step]] * 4), allowed)
        if not (actions == steps["actions"][step]).all():
            raise broken(f"another action at step {step}", "sessions")
        # What was executed may differ from what was chosen; every history has to hold it.
        sessions.observe(
            rows,
            [float(steps["rewards"][step])] * 4,
            [steps["executed"][step]] * 4,
            **{name: [float(steps[name][step])] * 4 for name in _outcomes(policy)},
        )
    return f"{count} of {count} actions"


def _restore(policy: Policy) -> str:
    """Return how many actions of a session that is restored before each of them equal those of one that is not."""
    steps = golden_steps(policy, seed=0)
    targets, seeds = _starts(policy, steps, 1)
    session = policy.session(targets[0], seeds[0], targets=_further(policy, steps))
    # Only the first recorded episode: the next one would need a new session.
    count = int(np.flatnonzero(steps["is_first"])[1]) if steps["is_first"].sum() > 1 else len(steps["actions"])
    for step in range(count):
        session = policy.restore(session.state())
        action = session.act(steps["observations"][step], steps["allowed"][step] if "allowed" in steps else None)
        if not (np.asarray(action) == steps["actions"][step]).all():
            raise broken(f"another action at step {step}", "session")
        outcomes = {name: float(steps[name][step]) for name in _outcomes(policy)}
        session.observe(float(steps["rewards"][step]), action=steps["executed"][step], **outcomes)
    return f"{count} of {count} actions"


def _starts(policy: Policy, steps: dict[str, np.ndarray], count: int) -> tuple[list[float | None], list[int]]:
    """Return target returns and seeds of sessions that begin as the recorded one."""
    names = [condition.name for condition in policy.spec.conditions]
    target = float(steps["targets"][0][names.index("return_to_go")]) if policy.spec.takes_target else None
    return [target] * count, [int(steps["seeds"][0])] * count


def _further(policy: Policy, steps: dict[str, np.ndarray]) -> dict[str, float] | None:
    named = zip(policy.spec.conditions, steps["targets"][0], strict=True)
    return {c.name: float(target) for c, target in named if c.name != "return_to_go"} or None


def _outcomes(policy: Policy) -> list[str]:
    return sorted({condition.outcome for condition in policy.spec.conditions} - {"reward"})


@torch.inference_mode()
def _replay(policy: Policy, dataset: TrajectoryDataset) -> str:
    """Return how far the actions of sessions are from those that training's windows give, on logged steps."""
    # Sampled actions would differ by their random numbers alone.
    spec = replace(policy.spec, action_selection="greedy")
    greedy = Policy(spec, policy.model, policy.normalizer, policy.return_model)
    length = window_length(policy)
    gatherer = make_gatherer(spec, policy.normalizer, dataset, length, policy.device)
    units = ActionUnits(spec.data.action_space, policy.normalizer, policy.device)
    tolerance = _WINDOW_SLACK * action_tolerance(policy)
    # Evenly over the data: episodes that lie together often come from one source.
    episodes = np.unique(np.linspace(0, len(dataset) - 1, _MOST_EPISODES).astype(int))
    largest, others, count = 0.0, 0, 0
    for episode in episodes.tolist():
        acted = _session_actions(greedy, dataset, episode)
        steps = np.arange(len(acted))
        begin = np.maximum(steps - length + 1, 0)
        rows = torch.from_numpy(dataset.offsets[episode] + begin)
        batch = gatherer.gather_at(rows, torch.full((len(steps),), episode))
        predicted = policy.model.predict_actions(batch.states, batch.actions, batch.conditions, batch.timesteps)
        parameters = predicted[torch.arange(len(steps)), torch.from_numpy(steps - begin)]
        allowed = (
            None if batch.allowed is None else batch.allowed[torch.arange(len(steps)), torch.from_numpy(steps - begin)]
        )
        expected = units.to_environment(policy.model.predict_action.greedy(parameters, allowed))
        difference = np.abs(acted.astype(np.float64) - expected).reshape(len(acted), -1).max(axis=1)
        largest = max(largest, float(difference.max()))
        others += int((difference > tolerance).sum())
        count += len(acted)
    figure = f"{count} steps of {len(episodes)} episodes, largest difference {largest:.2g}"
    if others:
        raise broken(f"{figure}, {others} beyond {tolerance:g}", dataset.location or "data")
    return figure


def _session_actions(policy: Policy, dataset: TrajectoryDataset, episode: int) -> np.ndarray:
    """Return what a session chooses at the steps of a logged episode, (N, *shape), while the logged actions are executed."""
    trajectory = dataset.trajectory(episode)
    start = int(dataset.offsets[episode])
    firsts = {
        c.name: float(np.asarray(condition_column(c, dataset).values).reshape(dataset.num_steps, -1)[start, 0])
        for c in policy.spec.conditions
    }
    target = firsts.pop("return_to_go", None)
    session = policy.session(target, targets=firsts or None)
    observations = dataset.spec.observation_space.flatten(trajectory.observations)
    masks = dataset.action_masks
    actions = []
    for step in range(min(len(trajectory.rewards), _MOST_STEPS)):
        actions.append(session.act(observations[step], None if masks is None else masks[start + step]))
        outcomes = {name: float(trajectory.extras[name][step]) for name in _outcomes(policy)}
        # The logged action enters the history whatever the session chose, as it does in windows of training.
        session.observe(float(trajectory.rewards[step]), action=trajectory.actions[step], **outcomes)
    return np.stack(actions)
