"""Search for good options: every trial is a run folder, and processes share nothing but a journal file.

Optuna proposes; `train` is the function from a configuration to a run folder.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rl_transformer.config import EvaluationConfig, RunConfig
from rl_transformer.config.base import unknown_option
from rl_transformer.errors import RLTransformerError, require
from rl_transformer.run import train
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.training.metrics import last_and_best, read_metrics
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SEARCH_SEED = 3_000_000
"""Seed of the first episode in a search: options chosen on some episodes must be scored on others."""


def read_space(path: Path, config: RunConfig) -> JsonObject:
    """Read which options to search: a list of choices, or a mapping with low, high and perhaps log and step.

    Raises:
        RLTransformerError: A file that cannot be read, an option that does not exist, or a range that is none.
    """
    fix = "write lines such as training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true} or model.n_layer: [2, 3]"
    try:
        space = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RLTransformerError(f"cannot be read: {error}", where=path, fix=fix) from None
    if not isinstance(space, dict) or not space:
        raise RLTransformerError("names no option to search", where=path, fix=fix)
    known = [name for name, _, _ in config.options()]
    for option, values in space.items():
        if option not in known:
            raise unknown_option(str(option), known, where=path)
        if isinstance(values, dict) and not _is_range(values):
            raise RLTransformerError(f"{option}: {values} is not a range", where=path, fix=fix)
        if not isinstance(values, dict | list) or not values:
            raise RLTransformerError(f"{option}: {values!r} is neither choices nor a range", where=path, fix=fix)
    return space


def _is_range(values: JsonMapping) -> bool:
    ends = [values.get(end) for end in ("low", "high")]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    return len(numbers) == 2 and numbers[0] < numbers[1] and set(values) <= {"low", "high", "log", "step"}


def sweep(
    config: RunConfig, space: JsonMapping, *, num_trials: int, dataset: TrajectoryDataset | None = None
) -> JsonObject:
    """Train trials until there are ``num_trials``, and write sweep.json with all of them, the best first.

    A trial's score is the mean of its last live returns, or without an environment the negative error
    of greedy actions on held-out episodes. Start the same call in several processes to share the work:
    each may add one trial beyond the number.

    Args:
        config: What all trials share; ``config.output`` is the folder of the search.
        space: From `read_space`.
        num_trials: Trials in all, those of earlier calls included.
        dataset: The data, if it is already open.

    Raises:
        RLTransformerError: No score to search by, or options that no trial could use.
    """
    require("optuna", extra="sweep", purpose="searching options")
    import optuna

    if not config.evaluation.env_id and not config.dataset.validation_fraction:
        raise RLTransformerError(
            "there is nothing to compare trials by",
            where="sweep",
            fix="hold out episodes (--dataset.validation_fraction 0.1), or name --evaluation.env_id",
        )
    if config.evaluation.seed == EvaluationConfig().seed:
        config.evaluation.seed = SEARCH_SEED
    config.check()
    folder = Path(config.output)
    data = dataset or open_trajectories(config.dataset.uri)
    study = _open_study(folder)
    while len(done := _finished_trials(study)) < num_trials:
        # Seeded by the number of finished trials, so that a repeated search proposes the same options.
        study.sampler = optuna.samplers.TPESampler(seed=config.training.seed + len(done))
        study.optimize(lambda trial: _score(trial, config, space, data), n_trials=1)
        newest = study.get_trials(deepcopy=False)[-1]
        outcome = newest.value if newest.value is not None else newest.user_attrs
        log.info(f"trial {newest.number}: {newest.params} -> {outcome}")
    trials = [
        {"trial": t.number, "score": t.value, "options": t.params, **t.user_attrs} for t in _finished_trials(study)
    ]
    trials.sort(key=lambda t: (t["score"] is None, -(t["score"] or 0.0)))
    if trials[0]["score"] is None:
        raise RLTransformerError(
            f"no trial could be trained: {trials[0]}", where="sweep", fix="correct the space or the options"
        )
    result = {"best": trials[0], "trials": trials, "evaluation_seed": config.evaluation.seed}
    write_text(folder / "sweep.json", to_json(result))
    return result


def _open_study(folder: Path) -> Study:
    """Open the search in ``folder``, or begin it; a journal file is all that its processes share."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.create_study(study_name="sweep", direction="maximize", storage=storage, load_if_exists=True)


def _finished_trials(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _score(trial: Trial, config: RunConfig, space: JsonMapping, data: TrajectoryDataset) -> float:
    import optuna

    proposed = copy.deepcopy(config)
    proposed.output = str(Path(config.output) / f"trial-{trial.number:04d}")
    for option, values in space.items():
        proposed.set(option, _suggest(trial, option, values))
    try:
        run = train(proposed, resume=True, dataset=data)
    except RLTransformerError as error:  # a combination that cannot work, or a loss that is not finite
        trial.set_user_attr("refused", f"{error.where}: {error.problem}")
        raise optuna.TrialPruned from None
    trial.set_user_attr("run", Path(run).name)
    if proposed.evaluation.env_id:
        scores = [found["last"] for found in last_and_best(run).values()]
        return sum(scores) / len(scores)
    errors = [row["validation_action_error"] for row in read_metrics(run) if "validation_action_error" in row]
    return -errors[-1]


def _suggest(trial: Trial, option: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(option, values)
    is_integer = isinstance(values["low"], int) and isinstance(values["high"], int)
    suggest = trial.suggest_int if is_integer else trial.suggest_float
    return suggest(option, **values)
