"""What the commands that judge from logs share: their options, and the episodes on which runs can be judged, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from rl_transformer.cli.condition_targets import add_targets_argument
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import user_path

if TYPE_CHECKING:
    from rl_transformer.evaluation.offline.gates import Gate
    from rl_transformer.policy import Policy
    from rl_transformer.trajectories import TrajectoryDataset


def add_judging_arguments(parser: ArgumentParser, *, when: str = "") -> None:
    """Declare what the commands that judge from logs share.

    Args:
        parser: Parser of the command.
        when: What a help text begins with, if an option belongs to one of several modes.
    """
    parser.add_argument(
        "--target-return",
        type=float | None,
        default=None,
        help="Target return of the policies; null: the one that each suggests.",
    )
    add_targets_argument(parser)
    parser.add_argument(
        "--entity",
        type=str,
        nargs="+",
        default=[],
        help=f"{when}Columns that identify the entity of an episode, such as a patient: its episodes are resampled together, and it must not be in the training data.",
    )
    parser.add_argument(
        "--propensity",
        type=str | None,
        default=None,
        help=f"{when}Column with the probability, or density, of each logged action; null: the column propensity if there is one, otherwise an estimate.",
    )
    parser.add_argument(
        "--accept",
        type=str,
        action="append",
        default=[],
        metavar="KIND",
        help=f"{when}Kind of finding to accept, so that it does not withhold the result, such as 'overlapping times'; may be repeated.",
    )


def check_judged_data(
    policies: Mapping[str, Policy], dataset: TrajectoryDataset, entity: Sequence[str], accept: Sequence[str]
) -> tuple[TrajectoryDataset, dict[str, list[Gate]]]:
    """Return the episodes to judge on, of training data only those that were held out, and what was checked for each run.

    Args:
        policies: The judged policies by their folders.
        dataset: The data that the user named.
        entity: Columns that tell whom an episode is about.
        accept: Kinds of findings that withhold nothing.

    Raises:
        RLTransformerError: Two runs held out different episodes of this data.
    """
    from rl_transformer.cli.training_data import selected_data
    from rl_transformer.evaluation.offline.gates import HELD_OUT, Gate, held_out_gate, leakage_gates, split_gates
    from rl_transformer.trajectories.subset import take_episodes

    found = {name: selected_data(user_path(name)) for name in policies}
    # What a policy has learned by heart says nothing of what it would earn elsewhere.
    parts = {
        name: tuple(data.split.held_out.tolist())
        for name, data in found.items()
        if data is not None and data.dataset.fingerprint == dataset.fingerprint and len(data.split.held_out)
    }
    if len(set(parts.values())) > 1:
        raise RLTransformerError(
            "the runs held out different episodes of this data, so some were trained on episodes that others are judged on",
            where=dataset.location or "--data",
            fix="judge them on data that none was trained on (rlt convert --split), or train them with one --training.seed and "
            "--dataset.validation_fraction",
        )
    judged = take_episodes(dataset, next(iter(parts.values()))) if parts else dataset
    shared = leakage_gates(judged, accept)
    gates: dict[str, list[Gate]] = {}
    compared: dict[tuple[str, bytes] | None, list[Gate]] = {}
    for name, data in found.items():
        first = held_out_gate(policies[name], dataset)
        if name in parts:
            first = Gate(HELD_OUT, True, f"judged on the {len(judged)} episodes that training held out")
        if len(policies) > 1:
            first = replace(first, text=f"{name}: {first.text}")
        key = None if data is None else (data.dataset.fingerprint, data.split.train.tobytes())
        # Runs often share their training data, and a comparison takes a while.
        if key not in compared:
            training = None if data is None else take_episodes(data.dataset, data.split.train)
            compared[key] = split_gates(training, judged, entity, accept)
        gates[name] = [first, *shared, *compared[key]]
    return judged, gates
