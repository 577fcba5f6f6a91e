"""The main path: logged data in, a policy out.

    data -> windows -> model -> training -> policy

Read `train` from top to bottom; everything else is reached from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.files import to_json, write_text
from rl_transformer.machine import cpu_threads, find_device, versions
from rl_transformer.models import DecisionTransformerConfig, build_model
from rl_transformer.policy import Policy, PolicySpec
from rl_transformer.pretraining.start import Start
from rl_transformer.training.adapters import adapt_trunk, merge_trunk
from rl_transformer.training.loop import Trainer
from rl_transformer.training.metrics import Metrics, read_metrics
from rl_transformer.training.optimizer import told_groups
from rl_transformer.training.ranks import Ranks, ranks_of
from rl_transformer.training.return_model import fit_return_model, predicted_returns, return_bins
from rl_transformer.training.run_folder import is_finished, mark_finished, write_run_files
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.windows.conditions import ReturnRule
from rl_transformer.windows.gather import WindowGatherer
from rl_transformer.windows.sampling import WindowSampler, split_trajectories, top_trajectories
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
    gatherer = WindowGatherer(
        dataset,
        conditions=[rule.column(dataset)] if spec.conditioned or return_model else [],
        condition_scales=[rule.scale] if spec.conditioned or return_model else [],
        window_length=config.window_length,
        max_timesteps=spec.model.max_ep_len,
        scaling=scaling,
        frame_stack=spec.frame_stack,
        device=device,
    )
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
        dataset_fingerprint=dataset.fingerprint,
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


def check_windows(longest: int, config: RunConfig) -> None:
    """Refuse windows that would never see how an episode ends."""
    if config.windows.start == "first" and longest > config.window_length:
        longer = "context_length" if config.model.attention == "window" else "window_length"
        raise RLTransformerError(
            f"an episode has {longest} steps, and windows that begin with it end after {config.window_length}",
            where="windows.start",
            fix=f"set windows.start to any, or windows.{longer} to {longest}",
        )


def choose_trajectories(
    dataset: TrajectoryDataset, returns: np.ndarray, config: RunConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the episodes to learn from and those held out."""
    data = config.dataset
    chosen = np.arange(dataset.num_trajectories)[: data.max_trajectories]
    if data.min_return is not None:
        chosen = chosen[returns[chosen] >= data.min_return]
        if not chosen.size:
            raise RLTransformerError(
                f"no episode has a return of {data.min_return:g} or more; the largest is {returns.max():g}",
                where="dataset.min_return",
                fix=f"choose {returns.max():g} or less",
            )
    if data.top_fraction < 1:
        chosen = chosen[top_trajectories(returns[chosen], dataset.lengths[chosen], data.top_fraction)]
    learned, held_out = split_trajectories(len(chosen), data.validation_fraction, seed=config.training.seed)
    return chosen[learned], chosen[held_out]


def policy_spec(
    dataset: TrajectoryDataset, rule: ReturnRule, returns: np.ndarray, config: RunConfig, of_trunk: dict[str, Any]
) -> PolicySpec:
    """Return everything about the policy but its numbers: what the options leave open follows from data and trunk."""
    m, space = config.model, dataset.spec.observation_space
    discrete = dataset.spec.action_space.kind == "discrete"
    head = ("discrete" if discrete else "continuous") if m.action_head == "auto" else m.action_head
    image = space.image_shape
    image_shape = (image[0] * m.frame_stack, *image[1:]) if image else None
    for wrong, option, problem, fix in (
        (
            discrete != (head == "discrete"),
            "model.action_head",
            f"the {head} head does not fit these actions",
            "use auto",
        ),
        (
            m.frame_stack > 1 and not space.is_image,
            "model.frame_stack",
            "frames are stacked for images only",
            "set it to 1",
        ),
        (
            m.arch == "behavior_cloning" and space.is_image,
            "model.arch",
            "the MLP takes vectors, not images",
            "use decision_transformer with conditions []",
        ),
        (
            config.policy.action_selection == "sample" and head == "continuous",
            "policy.action_selection",
            "the continuous head has no distribution to sample from",
            "use greedy",
        ),
    ):
        if wrong:
            raise RLTransformerError(problem, where=option, fix=fix)
    longest = int(dataset.lengths.max())
    if m.max_ep_len is not None and longest > m.max_ep_len:
        print(
            f"note: the longest episode has {longest} steps; steps from {m.max_ep_len} on share the last timestep embedding",
            flush=True,
        )
    model = DecisionTransformerConfig(
        state_dim=max(1, 0 if space.is_image else space.flat_dim),
        act_dim=dataset.spec.action_space.flat_dim,
        max_ep_len=m.max_ep_len or longest,
        action_tanh=m.action_tanh,
        conditions=() if m.arch == "behavior_cloning" else tuple(m.conditions),
        action_head=head,
        image_shape=image_shape,
        attention_span=config.windows.context_length if m.attention == "streaming" else None,
        token_positions=m.positions == "tokens",
        **{name: getattr(m, name) for name in _SAME_NAMES} | of_trunk,
    )
    spec = PolicySpec(
        arch=m.arch,
        model=model,
        data=dataset.spec,
        context_length=config.windows.context_length,
        frame_stack=m.frame_stack,
        return_rule=rule,
        action_selection=config.policy.action_selection,
        target=config.policy.target,
        prior_exponent=config.policy.prior_exponent,
        prior_floor=config.policy.prior_floor,
        return_bins=return_bins(rule.column(dataset) / rule.scale, config.returns.bins)
        if config.needs_return_model
        else None,
        dataset={
            "fingerprint": dataset.fingerprint,
            "num_trajectories": dataset.num_trajectories,
            "num_steps": dataset.num_steps,
        },
        versions=versions(),
    )
    return suggesting(spec, config, returns)


def suggesting(spec: PolicySpec, config: RunConfig, returns: np.ndarray) -> PolicySpec:
    """Return the spec with the targets to suggest: those of the options, or quartiles and maximum of ``returns``."""
    quartiles = sorted({float(q) for q in np.quantile(returns, (0.25, 0.5, 0.75, 1.0))})
    seen = float(returns.min()), float(returns.max())
    return replace(spec, suggested_targets=tuple(config.policy.suggested_targets or quartiles), return_range=seen)


_SAME_NAMES = (
    "hidden_size", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "condition_entry", "timestep_initializer_range", "embedding", "time", "tie_action_head",
)  # fmt: skip


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
