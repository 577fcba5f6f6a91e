"""A policy: a trained model together with its units and rules.

Shapes: W width of a condition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.conditions import Condition
from rl_transformer.conditions.interface import Target, initial_value
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import DecisionTransformerModel, PolicyModel, build_model
from rl_transformer.models.interface import num_parameters
from rl_transformer.models.parts import check_same_parts
from rl_transformer.models.return_model import ReturnModel
from rl_transformer.policy.advice import TargetTable
from rl_transformer.policy.session import PolicySession
from rl_transformer.policy.session_batch import SessionBatch
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.policy.storage import NORMALIZER, check_finite, write_policy_folder
from rl_transformer.policy.support import Support
from rl_transformer.policy.targets import check_target_names, default_target, takes_no_target, warning_of_targets
from rl_transformer.policy.validation import flatten_live, stack_live
from rl_transformer.runtime import log
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.shapes import Float, Shaped
from rl_transformer.runtime.types import JsonMapping, Nested
from rl_transformer.windows.normalization import Normalizer

# Prefixes of the tensors in policy.safetensors.
MODEL = "model."
RETURN_MODEL = "return_model."
SUPPORT = "support."
_MAX_NOTES = 10


class Policy:
    """A trained model together with its units and rules. It acts in sessions, see `session` and `sessions`."""

    def __init__(
        self,
        spec: PolicySpec,
        model: PolicyModel,
        normalizer: Normalizer,
        return_model: ReturnModel | None = None,
        support: Support | None = None,
    ) -> None:
        self.spec = spec
        self.model = model.eval()
        self.normalizer = normalizer
        self.return_model = None if return_model is None else return_model.eval()
        self.support = support
        self._notes: set[str] = set()

    def __repr__(self) -> str:
        spec = self.spec
        kind = spec.data.action_space.kind.replace("_", "-")
        names = ", ".join(condition.name for condition in spec.conditions) or "no condition"
        source = f", trained on {spec.data.source}" if spec.data.source else ""
        return (
            f"Policy({spec.arch}, {num_parameters(self.model):,} parameters, {kind} actions, {names}, "
            f"context of {spec.context_length} steps{source}, on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def session(
        self, target_return: float | None = None, seed: int = 0, *, targets: Mapping[str, Target] | None = None
    ) -> PolicySession:
        """Start one live episode.

        Args:
            target_return: The return to aim for, in the environment's units; None: the advised one, which is chosen at
                the first observation (`target_table`). Policies of earlier formats take their largest suggestion.
            seed: Seed of the episode's own random numbers, if the policy samples its actions.
            targets: Targets of further conditions, for example ``{"cost_to_go": 25.0}``; a list for a condition of
                several numbers.

        Targets outside the range of the training data are noted on standard output.
        """
        batch = SessionBatch(self, [target_return], [seed], targets=targets)
        self.note_target(target_return, targets)
        return PolicySession(batch)

    def restore(self, state: JsonMapping) -> PolicySession:
        """Continue the session of `PolicySession.state`, with the same actions to the bit.

        Raises:
            RLTransformerError: It is not the state of one session, belongs to another policy, or is damaged.
        """
        batch = self.restore_sessions(state)
        if len(batch) != 1:
            raise RLTransformerError(
                f"holds {len(batch)} sessions", where="session state", fix="pass it to policy.restore_sessions"
            )
        return PolicySession(batch)

    def restore_sessions(self, state: JsonMapping) -> SessionBatch:
        """Continue the sessions of `SessionBatch.state`; their rows are 0, 1, 2, ... in its order."""
        batch = SessionBatch(self, [], [])
        batch.restore(state)
        return batch

    def sessions(
        self,
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        *,
        targets: Mapping[str, Target] | None = None,
    ) -> SessionBatch:
        """Start several live episodes that act together.

        Args:
            target_returns: The return that each aims for; may be empty, because sessions can be added later.
            seeds: The seed of each.
            targets: Targets of further conditions, the same for all of them.
        """
        return SessionBatch(self, target_returns, seeds, targets=targets)

    def initial_conditions(
        self, target_return: float | None, targets: Mapping[str, Target] | None = None
    ) -> dict[str, Float[np.ndarray, "_"]]:
        """Return the value of every condition at the first step of an episode, (W,) each.

        Raises:
            RLTransformerError: A target is missing, not finite, or not one that this policy takes.
        """
        given = dict(targets or {})
        check_target_names(self.spec, target_return, given)
        if target_return is not None:
            given["return_to_go"] = target_return
        return {
            condition.name: initial_value(condition, self._target(condition, given))
            for condition in self.spec.conditions
        }

    def check_return_to_go(self, value: float) -> float:
        """Return a return-to-go that is set during an episode as a number.

        Raises:
            RLTransformerError: It is not finite, or this policy takes no target.
        """
        if not self.spec.takes_target:
            raise takes_no_target(self.spec, value)
        condition = next(condition for condition in self.spec.conditions if condition.name == "return_to_go")
        return float(initial_value(condition, value)[0])

    def _target(self, condition: Condition, given: dict[str, Target]) -> Target:
        """Return the target that is given for a condition, or else the default for a return."""
        if condition.name in given:
            return given[condition.name]
        return default_target(self.spec, condition)

    def target_table(self, observation: Nested = None) -> TargetTable | None:
        """Return the advice on targets: which one is advised, and what to expect of others.

        Args:
            observation: An episode's first observation, to consider similar starts only; None: all starts.

        Returns:
            None if the policy takes no target, or is of a format that did not record what advice needs.

        Raises:
            RLTransformerError: It is not an observation of the policy's space.
        """
        advice = self.spec.advice
        quantiles = self.spec.return_quantiles
        limits = self.spec.target_ranges.get("return_to_go")
        if advice is None or quantiles is None or limits is None:
            return None
        levels = np.array(quantiles)
        advised = levels[advice.level]
        if observation is not None and advice.coefficients:
            space = self.spec.data.observation_space
            states = self.normalized(flatten_live(space, stack_live(space, observation), 1))
            levels = np.clip(advice.expectation(states)[0] + np.array(advice.residuals), *limits)
            advised = levels[advice.level]
        return TargetTable(advice, levels, limits, float(advised if advice.fixed is None else advice.fixed))

    def normalized(self, flat: Shaped[np.ndarray, "R D"]) -> Float[np.ndarray, "R D"]:
        """Return observation vectors as the model reads them."""
        states = torch.from_numpy(np.ascontiguousarray(flat, np.float32)).to(self.device)
        return self.normalizer.normalize(states).double().cpu().numpy()

    def target_warning(
        self, target_returns: Sequence[float], targets: Mapping[str, Target] | None = None
    ) -> str | None:
        """Return a note about targets outside the range of the training episodes; None if all lie inside."""
        given = [*(("return_to_go", target) for target in target_returns), *(targets or {}).items()]
        return warning_of_targets(self.spec, given)

    def note_target(self, target_return: float | None, targets: Mapping[str, Target] | None = None) -> None:
        """Print a note for each target outside the range of the training data, once for each distinct one."""
        warning = self.target_warning([] if target_return is None else [target_return], targets)
        for note in (warning or "").splitlines():
            # A service may start a session per second, each with another target.
            if note in self._notes or len(self._notes) >= _MAX_NOTES:
                continue
            self._notes.add(note)
            log.info(note)
            if len(self._notes) == _MAX_NOTES:
                log.info("further notes are not printed")

    def to(self, device: str | torch.device) -> Policy:
        """Return the policy with its model on ``device``."""
        return_model = None if self.return_model is None else self.return_model.to(device)
        normalizer = self.normalizer.to(torch.device(device))
        return Policy(self.spec, self.model.to(device), normalizer, return_model, self.support)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the policy by its name in policy.safetensors."""
        tensors = {MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {NORMALIZER + name: tensor for name, tensor in vars(self.normalizer).items() if tensor is not None}
        if self.return_model is not None:
            tensors |= {RETURN_MODEL + name: tensor for name, tensor in self.return_model.state_dict().items()}
        if self.support is not None:
            tensors |= {SUPPORT + name: tensor for name, tensor in self.support.tensors().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def save(self, folder: str | Path) -> None:
        """Write the policy folder completely, or leave the disk unchanged if that fails.

        Raises:
            RLTransformerError: A part of the model is not what the spec describes, so that the folder could not be loaded
                as this policy; or a tensor holds NaN or infinite values.
        """
        self.check_rebuildable()
        tensors = self.tensors()
        check_finite(
            tensors,
            where="policy",
            fix="save an earlier policy; a run whose loss is NaN needs a smaller training.learning_rate",
        )
        write_policy_folder(user_path(folder), self.spec, tensors)

    def check_rebuildable(self, prepare: Callable[[nn.Module], None] | None = None) -> None:
        """Raise an error if a network has other parts than the spec describes: `load_policy` could not rebuild it.

        Args:
            prepare: Changes that training makes to the model until it is saved, such as LoRA. With it a transformer of
                another library is left out, because building it takes seconds.
        """
        config = self.spec.model
        leave_out = "encoder" if prepare is not None and config.trunk is not None else None
        # Nothing here may change random numbers that training draws later.
        with torch.random.fork_rng(devices=[]):
            if leave_out:
                reference = DecisionTransformerModel(config, encoder=nn.Identity())
            else:
                reference = build_model(self.spec.arch, config, self.spec.context_length)
                if prepare is not None:
                    prepare(reference)
            check_same_parts(self.model, reference, skip=leave_out)
            return_model = self.spec.build_return_model()
            if self.return_model is not None and return_model is not None:
                check_same_parts(self.return_model, return_model)

    @property
    def content_hash(self) -> str:
        """Return the SHA-256 of spec and tensors, which is the same for the same policy wherever it is stored."""
        digest = hashlib.sha256(json.dumps(self.spec.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()
