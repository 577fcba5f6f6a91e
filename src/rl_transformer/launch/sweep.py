"""Search for options: every trial is a run folder, and a journal file is all that several processes share.

Optuna proposes; `train` is the function from a configuration to a run folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rl_transformer.config.run import EvaluationConfig, RunConfig
from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.training.metrics import last_and_best
from rl_transformer.run import train
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories

SEARCH_SEED = 3_000_000
"""First episode of live evaluations in a search: what is chosen on episodes must be scored on others."""


def read_space(path: Path, config: RunConfig) -> dict[str, Any]:
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
    for option, values in space.items():
        section, _, name = str(option).partition(".")
        if not hasattr(getattr(config, section, None), name):
            raise RLTransformerError(
                f"there is no option {option}", where=path, fix="rlt train PRESET --help lists them"
            )
        if isinstance(values, dict):
            ends = [values.get(end) for end in ("low", "high")]
            numbers = [v for v in ends if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) < 2 or not numbers[0] < numbers[1] or not set(values) <= {"low", "high", "log", "step"}:
                raise RLTransformerError(f"{option}: {values} is not a range", where=path, fix=fix)
        elif not isinstance(values, list) or not values:
            raise RLTransformerError(f"{option}: {values!r} is neither choices nor a range", where=path, fix=fix)
    return space


def sweep(
    config: RunConfig, space: Mapping[str, Any], *, num_trials: int, dataset: TrajectoryDataset | None = None
) -> dict[str, Any]:
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
    from optuna.storages.journal import JournalFileBackend

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
    folder.mkdir(parents=True, exist_ok=True)
    data = dataset or open_trajectories(config.dataset.uri, keep_unfinished=config.dataset.keep_unfinished)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="sweep",
        direction="maximize",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=config.training.seed),
    )
    complete = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(done := study.get_trials(deepcopy=False, states=complete)) < num_trials:
        study.sampler = optuna.samplers.TPESampler(seed=config.training.seed + len(done))
        study.optimize(lambda trial: _score(trial, config, space, data), n_trials=1)
        newest = study.get_trials(deepcopy=False)[-1]
        print(
            f"trial {newest.number}: {newest.params} -> {newest.value if newest.value is not None else newest.user_attrs}"
        )
    trials = [
        {"trial": t.number, "score": t.value, "options": t.params, **t.user_attrs}
        for t in study.get_trials(deepcopy=False, states=complete)
    ]
    trials.sort(key=lambda t: (t["score"] is None, -(t["score"] or 0.0)))
    if trials[0]["score"] is None:
        raise RLTransformerError(
            f"no trial could be trained: {trials[0]}", where="sweep", fix="mend the space or the options"
        )
    result = {"best": trials[0], "trials": trials, "evaluation_seed": config.evaluation.seed}
    write_text(folder / "sweep.json", to_json(result))
    return result


def _score(trial: Any, config: RunConfig, space: Mapping[str, Any], data: TrajectoryDataset) -> float:
    import optuna

    wanted = copy.deepcopy(config)
    wanted.output = str(Path(config.output) / f"trial-{trial.number:04d}")
    for option, values in space.items():
        section, _, name = option.partition(".")
        setattr(getattr(wanted, section), name, _suggest(trial, option, values))
    try:
        run = train(wanted, resume=True, dataset=data)
    except RLTransformerError as error:  # a combination that cannot work, or a loss that left the numbers
        trial.set_user_attr("refused", f"{error.where}: {error.problem}")
        raise optuna.TrialPruned from None
    trial.set_user_attr("run", Path(run).name)
    if wanted.evaluation.env_id:
        scores = [found["last"] for found in last_and_best(run).values()]
        return sum(scores) / len(scores)
    errors = [row["validation_action_error"] for row in read_metrics(run) if "validation_action_error" in row]
    return -errors[-1]


def _suggest(trial: Any, option: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(option, values)
    suggest = (
        trial.suggest_int if isinstance(values["low"], int) and isinstance(values["high"], int) else trial.suggest_float
    )
    return suggest(option, **values)
