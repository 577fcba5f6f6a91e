"""The main path: logged data in, a policy out.

    data -> windows -> model -> training -> policy

Read `train` from top to bottom; everything else is reached from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.files import to_json, write_text
from rl_transformer.machine import find_device, versions
from rl_transformer.models import DecisionTransformerConfig, build_model
from rl_transformer.policy import Policy, PolicySpec
from rl_transformer.training.loop import Trainer
from rl_transformer.training.metrics import Metrics
from rl_transformer.training.run_folder import is_finished, write_run_files
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.windows.conditions import ReturnRule
from rl_transformer.windows.gather import WindowGatherer
from rl_transformer.windows.sampling import WindowSampler, split_trajectories, top_trajectories
from rl_transformer.windows.scaling import Scaling

if TYPE_CHECKING:
    from rl_transformer.evaluation.report import EvaluationReport


def train(config: RunConfig, *, resume: bool = False, dataset: TrajectoryDataset | None = None) -> Path:
    """Train a policy and return its run folder.

    Args:
        config: Everything that determines the run.
        resume: Continue the run in the folder, or start it if there is none. A finished run is left
            as it is.
        dataset: The data, if it is already open; ``config.dataset.uri`` then only names it.

    Returns:
        The run folder. `load_policy` reads the policy from it.

    Raises:
        RLTransformerError: Anything about the data, the options or the folder that the user can mend.
    """
    config.check()
    folder = Path(config.output)
    if is_finished(folder, config, resume=resume):
        return folder
    torch.set_num_threads(config.training.threads or torch.get_num_threads())
    device = find_device(config.training.device)

    # Data: columns over all steps, and which episodes to learn from.
    dataset = dataset or open_trajectories(config.dataset.uri, keep_unfinished=config.dataset.keep_unfinished)
    rule = ReturnRule(scale=config.returns.scale, update=config.returns.update, reward_clip=config.returns.reward_clip)
    returns = rule.totals(dataset)
    learned, held_out = choose_trajectories(dataset, returns, config)

    # Model: sizes follow from the data. The seed alone decides the initial weights.
    spec = policy_spec(dataset, rule, returns[learned], config)
    torch.manual_seed(config.training.seed)
    model = build_model(spec.arch, spec.model, spec.context_length).to(device)

    # Windows: a sampler that is a function of (seed, step), and one gather that cuts them out.
    scaling = Scaling.of(spec.data, dataset.statistics, action_tanh=spec.model.action_tanh)
    gatherer = WindowGatherer(
        dataset,
        conditions=[rule.column(dataset)] if spec.takes_target else [],
        condition_scales=[rule.scale] if spec.takes_target else [],
        window_length=spec.context_length,
        max_timesteps=spec.model.max_ep_len,
        scaling=scaling,
        frame_stack=spec.frame_stack,
        device=device,
    )
    options = {"seed": config.training.seed, "start": config.windows.start}
    sampler = WindowSampler(
        dataset.offsets, learned, **options, return_balance=config.windows.return_balance, episode_returns=returns
    )

    # Training: up to train_steps, from the newest checkpoint if there is one. Nothing was written so far.
    policy = Policy(spec, model, scaling.to(device))
    live_score = LiveScore(policy, config) if config.evaluation.env_id else None
    write_run_files(folder, config)
    trainer = Trainer(
        model=model,
        sampler=sampler,
        gatherer=gatherer,
        config=config.training,
        folder=folder,
        metrics=Metrics(
            folder, tensorboard=config.training.tensorboard, wandb=config.training.wandb, config=config.to_dict()
        ),
        validation=WindowSampler(dataset.offsets, held_out, **options) if len(held_out) else None,
        evaluate=live_score,
        evaluate_every=config.evaluation.every,
        dataset_fingerprint=dataset.fingerprint,
    )
    trainer.fit()

    # Policy: weights, units and rules in one folder.
    with trainer.policy_weights():
        policy.save(folder / "policy")
        if live_score is not None:
            if live_score.report is None:  # the run was resumed after its last evaluation
                live_score(trainer.step)
            assert live_score.report is not None
            write_text(folder / "report.json", to_json(live_score.report.to_dict()))
    return folder


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


def policy_spec(dataset: TrajectoryDataset, rule: ReturnRule, returns: np.ndarray, config: RunConfig) -> PolicySpec:
    """Return everything about the policy but its numbers: what the options leave open follows from the data."""
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
        **{name: getattr(m, name) for name in _SAME_NAMES},
    )
    suggested = config.policy.suggested_targets or sorted(
        {float(q) for q in np.quantile(returns, (0.25, 0.5, 0.75, 1.0))}
    )
    return PolicySpec(
        arch=m.arch,
        model=model,
        data=dataset.spec,
        context_length=config.windows.context_length,
        frame_stack=m.frame_stack,
        return_rule=rule,
        action_selection=config.policy.action_selection,
        suggested_targets=tuple(suggested),
        dataset={
            "fingerprint": dataset.fingerprint,
            "num_trajectories": dataset.num_trajectories,
            "num_steps": dataset.num_steps,
        },
        versions=versions(),
    )


_SAME_NAMES = (
    "hidden_size", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "condition_entry", "timestep_initializer_range",
)  # fmt: skip


class LiveScore:
    """Scores the policy as ``config.evaluation`` says, and keeps the last report."""

    def __init__(self, policy: Policy, config: RunConfig) -> None:
        self._policy, self._config = policy, config.evaluation
        self.report: EvaluationReport | None = None

    def __call__(self, step: int, check: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Run the episodes; return the mean return of each target under a name for metrics.jsonl."""
        # Imported here: training on a store needs neither scipy nor an environment.
        from rl_transformer.evaluation.evaluate import evaluate

        self.report = evaluate(
            self._policy,
            env_id=str(self._config.env_id),
            target_returns=self._config.target_returns,
            num_episodes=self._config.num_episodes,
            seed=self._config.seed,
            check=check,
        )
        asked = ["none" if t.target_return is None else format(t.target_return, "g") for t in self.report.targets]
        return {f"return_at_{name}": t.mean for name, t in zip(asked, self.report.targets, strict=True)}
