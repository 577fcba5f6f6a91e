"""The main path: logged data in, a policy out.

    data -> windows -> model -> training -> policy

Read `train` from top to bottom; everything else is reached from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.files import to_json, write_text
from rl_transformer.machine import cpu_threads, find_device
from rl_transformer.models import build_model
from rl_transformer.policy import Policy
from rl_transformer.policy.windows import gatherer_of
from rl_transformer.pretraining.start import Start
from rl_transformer.specification import check_windows, choose_trajectories, policy_spec, suggesting
from rl_transformer.training.adapters import adapt_trunk, merge_trunk
from rl_transformer.training.loop import Trainer
from rl_transformer.training.metrics import Metrics, read_metrics
from rl_transformer.training.optimizer import told_groups
from rl_transformer.training.ranks import Ranks, ranks_of
from rl_transformer.training.return_model import fit_return_model, predicted_returns
from rl_transformer.training.run_folder import is_finished, mark_finished, write_run_files
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.windows.conditions import ReturnRule
from rl_transformer.windows.sampling import WindowSampler
from rl_transformer.windows.scaling import Scaling

if TYPE_CHECKING:
    from rl_transformer.evaluation.report import EvaluationReport


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    dataset: TrajectoryDataset | None = None,
    transformer: nn.Module | None = None,
) -> Path:
    """Train a policy and return its run folder.

    Args:
        config: Everything that determines the run.
        resume: Continue the run in the folder, or start it if there is none. A finished run is left
            as it is.
        dataset: The data, if it is already open; ``config.dataset.uri`` then only names it.
        transformer: A model of the transformers library to start the trunk from, instead of ``config.model.trunk``.

    Returns:
        The run folder. `load_policy` reads the policy from it.

    Raises:
        RLTransformerError: Anything about the data, the options or the folder that the user can mend.
    """
    config.check()
    device = find_device(config.training.device)
    with cpu_threads(config.training.threads), ranks_of(device, config.training.batch_size) as ranks:
        if not is_finished(Path(config.output), config, resume=resume):
            ranks.wait()  # nobody writes before everybody has looked
            _train(config, dataset, device, ranks, transformer)
            ranks.wait()
    return Path(config.output)


def train_seeds(
    config: RunConfig, seeds: Sequence[int], *, resume: bool = False, dataset: TrajectoryDataset | None = None
) -> list[Path]:
    """Train one policy a seed, in run folders seed-N below ``config.output``; arguments as for `train`.

    On a GPU the seeds are trained together, stacked; each run is that of `train` with its seed, to
    rounding. Elsewhere, and for runs with a model of returns, one comes after the other.
    """
    configs = []
    for seed in seeds:
        configs.append(RunConfig.from_dict(config.to_dict()))
        configs[-1].training.seed, configs[-1].output = seed, str(Path(config.output) / f"seed-{seed}")
        configs[-1].check()
    folders = [Path(one.output) for one in configs]
    dataset = dataset or open_trajectories(config.dataset.uri, keep_unfinished=config.dataset.keep_unfinished)
    if not stackable(config):
        return [train(one, resume=resume, dataset=dataset) for one in configs]
    open_runs = [one for one in configs if not is_finished(Path(one.output), one, resume=resume)]
    if open_runs:
        _train_together(open_runs, dataset)
    return folders


def stackable(config: RunConfig) -> bool:
    """Whether runs that differ in their seed alone are trained together: on one GPU, where that pays."""
    one_device = config.training.device.startswith("cuda") and "WORLD_SIZE" not in os.environ
    return one_device and not (config.needs_return_model or config.training.entropy_weight or config.model.trunk)


def _train_together(configs: list[RunConfig], dataset: TrajectoryDataset) -> None:
    from rl_transformer.training.stacked import fit_together

    device = find_device(configs[0].training.device)
    with cpu_threads(configs[0].training.threads):
        parts = [assemble(config, dataset, device, Ranks()) for config in configs]
        for config, (_, trainer, _) in zip(configs, parts, strict=True):
            trainer.resume()
            write_run_files(trainer.folder, config, dataset_fingerprint=dataset.fingerprint)
        fit_together([trainer for _, trainer, _ in parts])
        for config, (policy, trainer, live_score) in zip(configs, parts, strict=True):
            finish(trainer.folder, config, policy, trainer, live_score)


def _train(
    config: RunConfig,
    dataset: TrajectoryDataset | None,
    device: torch.device,
    ranks: Ranks,
    transformer: nn.Module | None,
) -> None:
    dataset = dataset or open_trajectories(config.dataset.uri, keep_unfinished=config.dataset.keep_unfinished)
    policy, trainer, live_score = assemble(config, dataset, device, ranks, transformer)
    folder = trainer.folder

    # From the newest checkpoint, if there is one, up to train_steps. Nothing was written so far.
    trainer.resume()
    if ranks.writes:
        write_run_files(folder, config, dataset_fingerprint=dataset.fingerprint)
    if policy.return_model is not None:
        sampler, gatherer, scale = trainer.sampler, trainer.gatherer, policy.spec.return_rule.scale
        fit_return_model(policy.return_model, config, sampler, gatherer, folder / "return_model", dataset, ranks)
        if config.returns.label == "expected":
            expected = predicted_returns(policy.return_model, gatherer, dataset.offsets)
            gatherer.set_conditions([(expected * scale).astype(np.float32)])
            learned = np.sort(sampler.trajectories)
            policy.spec = suggesting(policy.spec, config, expected[dataset.offsets[learned]] * scale)
    if ranks.writes and (told := policy.warning_about(config.evaluation.target_returns)):
        print(told, flush=True)
    if ranks.writes and (config.model.trunk or transformer is not None):
        print("\n".join(told_groups(trainer.optimizer, config.training)), flush=True)
    trainer.fit()
    if ranks.writes:
        finish(folder, config, policy, trainer, live_score)


def assemble(
    config: RunConfig,
    dataset: TrajectoryDataset,
    device: torch.device,
    ranks: Ranks,
    transformer: nn.Module | None = None,
) -> tuple[Policy, Trainer, LiveScore | None]:
    """Put the parts of a run together; nothing is written, and the training has not begun."""
    # Data: columns over all steps, and which episodes to learn from.
    counted = config.returns
    rule = ReturnRule.for_data(dataset, scale=counted.scale, update=counted.update, reward_clip=counted.reward_clip)
    returns = rule.totals(dataset)
    learned, held_out = choose_trajectories(dataset, returns, config)
    check_windows(int(dataset.lengths[learned].max()), config)

    # Model: sizes follow from the data, or from a pretrained trunk. The seed alone decides the initial weights.
    start = Start.of(config, transformer)
    spec = policy_spec(dataset, rule, returns[learned], config, start.model_fields)
    torch.manual_seed(config.training.seed)
    model = build_model(spec.arch, spec.model, spec.context_length)
    objective = start.fill(model, device, ranks)
    adapt_trunk(model, config.training.trunk, config.training.lora_rank)
    return_model = spec.build_return_model()
    model.to(device)

    # Windows: a sampler that is a function of (seed, step), and one gather that cuts them out.
    scaling = Scaling.of(spec.data, dataset.statistics, action_tanh=spec.model.action_tanh)
    gatherer = gatherer_of(spec, scaling, dataset, config.window_length, device)
    options = {"seed": config.training.seed, "start": config.windows.start}
    sampler = WindowSampler(
        dataset.offsets, learned, **options, return_balance=config.windows.return_balance, episode_returns=returns
    )

    # Training: the loop over all of it, and what it tells of the policy while it runs.
    folder = Path(config.output)
    policy = Policy(spec, model, scaling.to(device), None if return_model is None else return_model.to(device))
    live_score = LiveScore(policy, config) if config.evaluation.env_id and ranks.writes else None
    trainer = Trainer(
        model=model,
        sampler=sampler,
        gatherer=gatherer,
        config=config.training,
        folder=folder,
        metrics=Metrics(folder, config),
        validation=WindowSampler(dataset.offsets, held_out, **options) if len(held_out) else None,
        evaluate=live_score,
        evaluate_every=config.evaluation.every,
        dataset_fingerprint=dataset.fingerprint + ("" if objective is None else objective.identity),
        loss=objective,
        needs_step=objective is not None or spec.model.trunk is not None,
        ranks=ranks,
    )
    return policy, trainer, live_score


def finish(folder: Path, config: RunConfig, policy: Policy, trainer: Trainer, live_score: LiveScore | None) -> None:
    """Write the policy (weights, units and rules in one folder), its report, and that the run is finished."""
    with trainer.policy_weights():
        merge_trunk(policy.model)
        policy.save(folder / "policy")
        if live_score is not None:
            trainer.metrics.flush()
            report = live_score.report or live_score.run()  # none if the run was resumed after its last evaluation
            write_text(folder / "report.json", to_json({**report.to_dict(), "while_training": last_and_best(folder)}))
    mark_finished(folder, config)


def last_and_best(folder: Path) -> dict[str, dict[str, float]]:
    """Return, for every score in metrics.jsonl, the last one and the best one with its step: never the best alone."""
    scores: dict[str, list[tuple[float, int]]] = {}
    for row in read_metrics(folder):
        for name, value in row.items():
            if name.startswith("return_at_"):
                scores.setdefault(name, []).append((value, row["step"]))
    found = {}
    for name, history in scores.items():
        best, step = max(history, key=lambda pair: pair[0])
        found[name] = {"last": history[-1][0], "best": best, "best_step": step}
    return found


class LiveScore:
    """Scores the policy as ``config.evaluation`` says, and keeps the last report.

    What could be wrong with the environment or the targets is found when this is made, before training.
    """

    def __init__(self, policy: Policy, config: RunConfig) -> None:
        # Imported here: training on a store needs neither scipy nor an environment.
        from rl_transformer.evaluation.environments import check_spaces, make_environment

        self._policy, self._config = policy, config.evaluation
        self.report: EvaluationReport | None = None
        env_id = str(self._config.env_id)
        environment = make_environment(env_id)
        check_spaces(environment, policy.spec.data, env_id)
        environment.close()
        for target in self._config.target_returns:
            policy.target_or_default(target)

    def run(self, check: Callable[[], None] = lambda: None) -> EvaluationReport:
        """Run the episodes, and keep and return the report."""
        from rl_transformer.evaluation.evaluate import evaluate

        e = self._config
        options = {"target_returns": e.target_returns, "num_episodes": e.num_episodes, "seed": e.seed}
        self.report = evaluate(self._policy, env_id=str(e.env_id), **options, check=check)
        return self.report

    def __call__(self, step: int, check: Callable[[], None]) -> dict[str, float]:
        """Return the mean return of each target under a name for metrics.jsonl."""
        targets = self.run(check).targets
        asked = ["none" if t.target_return is None else format(t.target_return, "g") for t in targets]
        return {f"return_at_{name}": t.mean for name, t in zip(asked, targets, strict=True)}
