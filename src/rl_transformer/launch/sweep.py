"""Search for good options with Optuna.

Every trial is a run folder written by `train`. Several processes can share a search; they only have a journal file in
common.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_transformer.config import EvaluationConfig, RunConfig
from rl_transformer.config.base import unknown_option
from rl_transformer.errors import RLTransformerError, require
from rl_transformer.run import train
from rl_transformer.runtime import log
from rl_transformer.runtime.files import WriteError, to_json, translate_write_errors, write_output
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.plugins import MODULE_OPTIONS, refuse_named_module
from rl_transformer.runtime.reading import read_yaml
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.training.metrics import last_and_best, read_metrics
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.open import open_training_data

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SEARCH_SEED = 3_000_000
"""Seed of the first evaluation episode in a search.

It differs from the default of ``evaluation.seed``, because options selected on some episodes must be scored on others.
"""


def read_space(path: Path, config: RunConfig) -> JsonObject:
    """Return the options to search from a YAML file.

    Args:
        path: A file that maps options to a list of choices, or to a range: a mapping with low, high, and perhaps log
            and step.
        config: Configuration that has the options.

    Raises:
        RLTransformerError: The file cannot be read, an option does not exist, or its values are not a range or choices.
    """
    fix = "write lines such as training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true} or model.n_layer: [2, 3]"
    space = read_yaml(path, fix=fix)
    if not space:
        raise RLTransformerError("names no option to search", where=path, fix=fix)
    # Checked before the first trial: Optuna would only notice a wrong range when it proposes a value.
    known = [name for name, _, _ in config.options()]
    for option, values in space.items():
        if option not in known:
            raise unknown_option(str(option), known, where=path)
        if isinstance(values, dict) and not _is_range(values):
            raise RLTransformerError(f"{option}: {values} is not a range", where=path, fix=fix)
        if not isinstance(values, dict | list) or not values:
            raise RLTransformerError(f"{option}: {values!r} is neither choices nor a range", where=path, fix=fix)
        for value in values if option in MODULE_OPTIONS else ():
            refuse_named_module(option, value, where=path)
    return space


def _is_range(values: JsonMapping) -> bool:
    """Return True if ``values`` are arguments of Optuna's suggest functions."""
    ends = [values.get(end) for end in ("low", "high")]
    low_high = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    return len(low_high) == 2 and low_high[0] < low_high[1] and set(values) <= {"low", "high", "log", "step"}


def sweep(
    config: RunConfig, space: JsonMapping, *, num_trials: int, dataset: TrajectoryDataset | None = None
) -> JsonObject:
    """Train trials until there are ``num_trials``; write and return sweep.json with all of them, the best one first.

    A trial's score is the mean return of its last evaluation, averaged over targets; without an environment it is the
    negative error of greedy actions on held-out episodes. Several processes that make the same call share the work, and
    each of them may add one trial beyond the number.

    Args:
        config: Options that all trials share; ``config.output`` is the folder of the search.
        space: Options to search, from `read_space`.
        num_trials: Total number of trials, including those of earlier calls.
        dataset: The data, if it is already open.

    Raises:
        RLTransformerError: There is nothing to score trials by, or no trial could be trained.
    """
    require("optuna", extra="sweep", purpose="searching options")
    import optuna

    if not config.evaluation.env_id and not config.dataset.validation_fraction:
        raise RLTransformerError(
            "there is nothing to compare trials by",
            where="sweep",
            fix="hold out episodes (--dataset.validation_fraction 0.1), or name --evaluation.env_id",
        )
    # A seed that the user set takes precedence.
    if config.evaluation.env_id and config.evaluation.seed == EvaluationConfig().seed:
        config.evaluation.seed = SEARCH_SEED
    config.check()
    folder = user_path(config.output)
    data = open_training_data(config.dataset, dataset)
    study = _open_study(folder)
    if config.evaluation.env_id and config.evaluation.on_error != "stop":
        log.info("note: evaluation.on_error is stop in every trial, because one without a score cannot be compared")
    while len(done := _finished_trials(study)) < num_trials:
        # TPE keeps random state that a new process would not have. Seeding it by the number of finished trials makes an
        # interrupted search propose the same options as an uninterrupted one.
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
    write_output(folder / "sweep.json", to_json(result))
    return result


def _open_study(folder: Path) -> Study:
    """Return the search in ``folder``, which is created if there is none."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    # Our own line per trial says the same; as a warning, Optuna prints the traceback of an error that ends the search.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A journal is a file that processes append to under a lock. It needs no server, and works on network file systems,
    # on which SQLite does not.
    journal = folder / "journal.log"
    with translate_write_errors(journal):
        _end_last_line(journal)
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
            return optuna.create_study(study_name="sweep", direction="maximize", storage=storage, load_if_exists=True)
        except (ValueError, KeyError) as error:  # ValueError: a line is no JSON
            raise RLTransformerError(
                f"holds a damaged line: {' '.join(str(error).split())[:200]}",
                where=journal,
                fix="remove that line, or name another folder; finished trials are kept in their own folders",
            ) from None


def _end_last_line(journal: Path) -> None:
    """Cut off a last line that a killed process wrote in part; every later one would be appended to it."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not journal.exists() or journal.read_bytes().endswith(b"\n"):
        return
    lock = JournalFileSymlinkLock(str(journal))  # the one that Optuna takes for every line
    lock.acquire()
    try:
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            with journal.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _finished_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials with a result: a score, or an error of the options. Interrupted ones are not among them."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _score(trial: Trial, config: RunConfig, space: JsonMapping, data: TrajectoryDataset) -> float:
    """Train one trial and return its score.

    Raises:
        optuna.TrialPruned: The trial could not be trained; its attribute ``refused`` says why.
    """
    import optuna

    proposed = copy.deepcopy(config)
    proposed.output = str(user_path(config.output) / f"trial-{trial.number:04d}")
    proposed.evaluation.on_error = "stop"  # a trial without a score cannot be compared
    for option, values in space.items():
        proposed.set(option, _suggest(trial, option, values))
    try:
        run = train(proposed, resume=True, dataset=data)
    except WriteError:
        raise  # a full disk says nothing about the options of this trial
    except RLTransformerError as error:
        # A combination of options that cannot work, or a loss that is not finite. A search must survive both, and TPE
        # learns to avoid pruned regions.
        trial.set_user_attr("refused", f"{error.where}: {error.problem}")
        raise optuna.TrialPruned from None
    trial.set_user_attr("run", Path(run).name)
    if proposed.evaluation.env_id:
        # The last score, not the best: the maximum of noisy evaluations favors runs that are evaluated often.
        scores = [score["last"] for score in last_and_best(run).values()]
        return sum(scores) / len(scores)
    errors = [row["validation_action_error"] for row in read_metrics(run) if "validation_action_error" in row]
    return -errors[-1]


def _suggest(trial: Trial, option: str, values: Any) -> Any:
    """Return the value that Optuna proposes for an option."""
    if isinstance(values, list):
        return trial.suggest_categorical(option, values)
    is_integer = isinstance(values["low"], int) and isinstance(values["high"], int)
    suggest = trial.suggest_int if is_integer else trial.suggest_float
    return suggest(option, **values)
