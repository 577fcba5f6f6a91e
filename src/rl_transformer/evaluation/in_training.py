"""Evaluate the policy in a live environment while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rl_transformer.config import EvaluationConfig
from rl_transformer.policy import Policy
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.types import JsonMapping

if TYPE_CHECKING:
    from rl_transformer.evaluation.report import EvaluationReport


class PolicyEvaluator:
    """Evaluates the policy as ``evaluation.*`` says, and stores the last report; an `Evaluation` of the trainer.

    Raises:
        RLTransformerError: The environment cannot be made or does not fit the policy, or a target is wrong. The
            constructor checks both, so that a mistake does not surface after hours of training.
    """

    def __init__(self, policy: Policy, config: EvaluationConfig) -> None:
        # Imported here, because training without evaluation needs neither gymnasium nor scipy.
        from rl_transformer.environments.making import source_note
        from rl_transformer.environments.sources import EnvironmentSource, opened

        self._policy = policy
        self._config = config
        self._env_id = str(config.env_id)
        self.report: EvaluationReport | None = None
        source = EnvironmentSource.of(self._env_id, env_kwargs=config.env_kwargs, wrappers=config.wrappers)
        source = replace(source, step_timeout=config.step_timeout)
        with opened(source) as environment:
            environment.match_policy(policy.spec.data)
            note = source_note(environment.environment, policy.spec.data, config.max_steps)
        if note:
            log.info(note)
        # None stands for the policy's suggestions; further targets are checked with it, too.
        for target in config.target_returns or [None]:
            policy.initial_conditions(target, config.targets)

    def run(self, check: Callable[[], None] = lambda: None) -> EvaluationReport:
        """Run the episodes, and store and return the report."""
        from rl_transformer.evaluation.evaluate import evaluate

        self.report = None  # an evaluation that fails must not leave the one before as the last
        self.report = evaluate(
            self._policy,
            env_id=self._env_id,
            target_returns=self._config.target_returns,
            targets=self._config.targets,
            num_episodes=self._config.num_episodes,
            seed=self._config.seed,
            max_live=self._config.max_live,
            max_steps=self._config.max_steps,
            step_timeout=self._config.step_timeout,
            env_kwargs=self._config.env_kwargs,
            wrappers=self._config.wrappers,
            check=check,
        )
        return self.report

    def write_report(
        self, folder: Path, while_training: Callable[[Path], JsonMapping], *, stop_if_it_fails: bool
    ) -> None:
        """Write report.json with the last evaluation; say so if there is none because it raises an exception.

        Args:
            folder: The run folder.
            while_training: Returns the scores of the evaluations so far, from the run folder.
            stop_if_it_fails: Let exceptions of the evaluation out.
        """
        try:
            # There is no report if the run was interrupted between its last evaluation and this point.
            report = self.report or self.run()
        except Exception as error:
            if stop_if_it_fails:
                raise
            log.info(
                f"the last evaluation failed, so there is no report.json: {' '.join(str(error).split())}; the policy is "
                f"complete, and rlt evaluate {folder} tries again"
            )
            return
        content = {**report.to_dict(), "while_training": while_training(folder)}
        write_text(folder / "report.json", to_json(content))

    def __call__(self, step: int, check: Callable[[], None]) -> dict[str, float]:
        """Return mean returns per target, named for metrics.jsonl as return_at_3600, and mean costs as cost_at_3600.

        If targets are in another unit than the sum of an episode's rewards, achieved_at_3600 is in that of the targets.
        """
        row = {}
        for target in self.run(check).targets:
            # Targets are part of the name: a run's targets never change, so every name is one curve over the run.
            name = "none" if target.target_return is None else format(target.target_return, "g")
            row[f"return_at_{name}"] = target.mean
            if target.achieved is not None:
                row[f"achieved_at_{name}"] = target.achieved["mean"]
            for outcome, totals in target.episode_outcomes.items():
                row[f"{outcome}_at_{name}"] = sum(totals) / len(totals)
        return row
