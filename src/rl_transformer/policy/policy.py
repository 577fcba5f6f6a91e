"""A model that can act: weights, units and rules in one folder that holds no code.

The folder has policy.json (everything but numbers), policy.safetensors (weights and statistics) and
manifest.json (SHA-256 of both). Loading needs torch, numpy and safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.files import check_format, read_json, to_json, verify_folder, write_folder, write_text
from rl_transformer.models import DecisionTransformerConfig, PolicyModel, build_model
from rl_transformer.models.return_model import ReturnModel
from rl_transformer.trajectories.spaces import DataSpec
from rl_transformer.windows.conditions import ReturnRule
from rl_transformer.windows.scaling import Scaling

if TYPE_CHECKING:
    from rl_transformer.policy.session import PolicySession, SessionBatch

FORMAT_VERSION = 2  # 2: models of returns
ARCHS = ("decision_transformer", "behavior_cloning")
_WEIGHTS, _RETURNS, _SCALING = "model.", "return_model.", "scaling."
_FIX = "name a run folder of rlt train, or its policy folder"


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Everything about a policy but its numbers."""

    arch: str
    """decision_transformer or behavior_cloning."""
    model: DecisionTransformerConfig
    data: DataSpec
    """Spaces, and what the data was."""
    context_length: int
    """Timesteps a prediction may see."""
    frame_stack: int = 1
    return_rule: ReturnRule = field(default_factory=ReturnRule)
    action_selection: str = "greedy"
    target: str = "asked"
    """asked: whoever acts names a return; generated: the policy names one at every step, from its model of returns."""
    prior_exponent: float = 10.0
    """How strongly generated returns lean towards good ones."""
    prior_floor: float = 0.001
    """Less likely returns are not generated."""
    return_bins: tuple[float, float, int] | None = None
    """Smallest and largest value, scaled, and number of values of the model of returns; None if there is none."""
    timestep_rule: str = "hold"
    """hold: steps beyond the timestep table use its last row, as the training windows do."""
    suggested_targets: tuple[float, ...] = ()
    """Returns worth asking for: quartiles and maximum of the training data."""
    return_range: tuple[float, float] | None = None
    """Smallest and largest return that the training data could be asked for; None if not recorded."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """Fingerprint and size of the training data."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def conditioned(self) -> bool:
        """Whether the model reads a return."""
        return self.arch == "decision_transformer" and bool(self.model.conditions)

    @property
    def takes_target(self) -> bool:
        """Whether whoever acts asks for a return."""
        return self.conditioned and self.target == "asked"

    def build_return_model(self) -> ReturnModel | None:
        """Return a new model of returns, if this policy has one."""
        if self.return_bins is None:
            return None
        low, high, count = self.return_bins
        return ReturnModel(self.model, low=low, high=high, num_bins=count)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        plain = ("arch", "context_length", "frame_stack", "action_selection", "timestep_rule", "dataset", "versions")
        plain += ("target", "prior_exponent", "prior_floor", "return_bins", "return_range")
        return {
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in plain},
            "model": self.model.to_dict(),
            "data": self.data.to_dict(),
            "return_rule": self.return_rule.to_dict(),
            "suggested_targets": list(self.suggested_targets),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: object) -> PolicySpec:
        """Read what `to_dict` returned."""
        check_format(values, FORMAT_VERSION, where=where)
        fix = "the file was changed by hand or is damaged: restore it"
        try:
            spec = cls(
                arch=values["arch"],
                model=DecisionTransformerConfig.from_dict(values["model"], where=where),
                data=DataSpec.from_dict(values["data"], where=where),
                context_length=int(values["context_length"]),
                frame_stack=int(values["frame_stack"]),
                return_rule=ReturnRule.from_dict(values["return_rule"]),
                action_selection=values["action_selection"],
                timestep_rule=values["timestep_rule"],
                suggested_targets=tuple(float(t) for t in values["suggested_targets"]),
                # Policies of format 1 have none of these.
                target=values.get("target", "asked"),
                prior_exponent=float(values.get("prior_exponent", 10.0)),
                prior_floor=float(values.get("prior_floor", 0.001)),
                return_bins=_bins(values.get("return_bins")),
                return_range=_pair(values.get("return_range")),
                dataset=dict(values["dataset"]),
                versions=dict(values["versions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RLTransformerError(f"lacks or garbles a field: {error}", where=where, fix=fix) from None
        numbers = (1 <= spec.context_length <= 100_000) and (1 <= spec.frame_stack <= 1_000)
        known = spec.arch in ARCHS and spec.timestep_rule == "hold" and spec.action_selection in ("greedy", "sample")
        known = known and (spec.target == "asked" or (spec.target == "generated" and spec.return_bins is not None))
        if not (numbers and known):
            raise RLTransformerError(
                "names an unknown arch, target, timestep_rule or action_selection, or lengths out of range",
                where=where,
                fix=fix,
            )
        return spec


class Policy:
    """A trained model with its units and rules. Make sessions of it to act."""

    def __init__(
        self, spec: PolicySpec, model: PolicyModel, scaling: Scaling, return_model: ReturnModel | None = None
    ) -> None:
        self.spec, self.model, self.scaling = spec, model.eval(), scaling
        self.return_model = None if return_model is None else return_model.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    def session(self, target_return: float | None = None, seed: int = 0) -> PolicySession:
        """Start one live episode.

        Args:
            target_return: The return to ask for, in the environment's units; the largest of
                `suggested_targets` if not given.
            seed: Seed of the episode's own draws, if the policy samples its actions.
        """
        from rl_transformer.policy.session import PolicySession

        return PolicySession(self, target_return, seed)

    def sessions(self, targets: Sequence[float | None], seeds: Sequence[int]) -> SessionBatch:
        """Start several live episodes that act together."""
        from rl_transformer.policy.session import SessionBatch

        return SessionBatch(self, targets, seeds)

    def target_or_default(self, target: float | None) -> float:
        """Return the target to use, or explain why there is none to use."""
        if not self.spec.takes_target:
            if target is not None:
                generates = self.spec.target == "generated"
                raise RLTransformerError(
                    f"this policy is not asked for a return, and {target:g} was asked for",
                    where="target_return",
                    fix="leave the target out: "
                    + ("this policy generates its own" if generates else "behavior cloning has none"),
                )
            return 0.0
        if target is None:
            if not self.spec.suggested_targets:
                raise RLTransformerError(
                    "no target is given and the policy suggests none", where="target_return", fix="pass a target return"
                )
            return max(self.spec.suggested_targets)
        if isinstance(target, str) or not abs(target) <= float(torch.finfo(torch.float32).max):
            raise RLTransformerError(
                f"{target} is not a number to ask for", where="target_return", fix="pass a finite target return"
            )
        return float(target)

    def warning_about(self, targets: Sequence[float]) -> str | None:
        """Return what to know about targets that no training episode had, with the cure; None if all lie within."""
        if self.spec.return_range is None:
            return None
        low, high = self.spec.return_range
        outside = [target for target in targets if not low <= target <= high]
        if not outside:
            return None
        named = ", ".join(f"{target:g}" for target in outside)
        return (
            f"note: the training data has returns from {low:g} to {high:g}; what the policy does when asked for {named} is not "
            f"decided by the data. Ask for at most {high:g}, and look at asked against achieved returns"
        )

    def to(self, device: str | torch.device) -> Policy:
        """Return the policy with its model on ``device``."""
        returns = None if self.return_model is None else self.return_model.to(device)
        return Policy(self.spec, self.model.to(device), self.scaling.to(torch.device(device)), returns)

    def _numbers(self) -> dict[str, Tensor]:
        """Return every tensor of the policy by its name in the file."""
        tensors = {_WEIGHTS + name: t for name, t in self.model.state_dict().items() if not name.startswith("words.")}
        tensors |= {_SCALING + name: t for name, t in vars(self.scaling).items() if t is not None}
        if self.return_model is not None:
            tensors |= {_RETURNS + name: t for name, t in self.return_model.state_dict().items()}
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def save(self, folder: str | Path) -> None:
        """Write the policy folder, whole or not at all."""

        def fill(temporary: Path) -> None:
            write_text(temporary / "policy.json", to_json(self.spec.to_dict()))
            save_file(self._numbers(), temporary / "policy.safetensors", metadata={"format": "pt"})

        write_folder(Path(folder), fill)

    @property
    def content_hash(self) -> str:
        """SHA-256 over spec and numbers: the same for the same policy wherever it lies."""
        digest = hashlib.sha256(json.dumps(self.spec.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self._numbers().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def load_policy(path: str | Path, *, device: str = "cpu") -> Policy:
    """Load a policy from a run folder or a policy folder; every byte is checked against the manifest.

    ``hub:ORG/NAME@REVISION`` loads from the Hugging Face Hub, and only when spelled so.

    Raises:
        RLTransformerError: Nothing there, another format, or content that has changed.
    """
    folder = _from_hub(str(path)) if str(path).startswith("hub:") else Path(path)
    if (folder / "policy" / "policy.json").exists():
        folder = folder / "policy"
    if not folder.is_dir():
        raise RLTransformerError("no such folder", where=folder, fix=_FIX)
    if not (folder / "policy.json").exists():
        unfinished = (folder / "checkpoints").is_dir()
        problem = (
            "the run has not finished: it holds checkpoints and no policy" if unfinished else "holds no policy.json"
        )
        raise RLTransformerError(
            problem, where=folder, fix="finish it with rlt train ... --resume" if unfinished else _FIX
        )
    verify_folder(folder, required=("policy.json", "policy.safetensors"))
    spec = PolicySpec.from_dict(read_json(folder / "policy.json", fix=_FIX), where=folder / "policy.json")
    try:
        tensors = load_file(folder / "policy.safetensors", device=device)
    except (OSError, SafetensorError) as error:
        raise RLTransformerError(f"cannot be read: {error}", where=folder / "policy.safetensors", fix=_FIX) from None
    model = build_model(spec.arch, spec.model, spec.context_length).to(device)
    return_model = spec.build_return_model()
    try:
        model.load_state_dict(_under(_WEIGHTS, tensors))
        if return_model is not None:
            return_model.to(device).load_state_dict(_under(_RETURNS, tensors))
    except RuntimeError as error:
        raise RLTransformerError(
            f"does not fit policy.json: {error}",
            where=folder / "policy.safetensors",
            fix="restore the folder from a copy",
        ) from None
    scaling = {item.name: tensors.get(_SCALING + item.name) for item in fields(Scaling)}
    absent = [name for name, tensor in scaling.items() if tensor is None and _needs(spec.data, name)]
    if absent:
        raise RLTransformerError(
            f"does not fit policy.json: lacks {', '.join(absent)}",
            where=folder / "policy.safetensors",
            fix="restore the folder from a copy",
        )
    return Policy(spec, model, Scaling(**scaling), return_model)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _pair(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    return float(low), float(high)


def _bins(value: Any) -> tuple[float, float, int] | None:
    if value is None:
        return None
    low, high, count = value
    if not (float(low) < float(high) and 2 <= int(count) <= 100_000):
        raise ValueError(f"return_bins {value}")
    return float(low), float(high), int(count)


def _needs(data: DataSpec, name: str) -> bool:
    """Return whether a policy on this data cannot do without a tensor of its scaling."""
    if name.startswith("action_"):
        return data.action_space.kind == "box"
    return not data.observation_space.is_image


def _from_hub(uri: str) -> Path:
    from rl_transformer.errors import require

    repository, at, revision = uri.removeprefix("hub:").partition("@")
    if not at or repository.count("/") != 1:
        raise RLTransformerError(
            "is not a Hub policy", where=uri, fix="write it as hub:ORG/NAME@REVISION, with the revision pinned"
        )
    require("huggingface_hub", extra="hub", purpose="loading a hub: policy")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise RLTransformerError(
            f"cannot be downloaded: {error}",
            where=uri,
            fix="check the name, the revision and the network, or download it and name the folder",
        ) from error
