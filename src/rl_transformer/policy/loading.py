"""Load policies from run folders, policy folders and the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from torch import Tensor

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.models import build_model
from rl_transformer.policy.policy import MODEL, RETURN_MODEL, SUPPORT, Policy
from rl_transformer.policy.storage import FIX, NORMALIZER, SPEC_FILE, TENSOR_FILE, check_finite, read_policy_folder
from rl_transformer.policy.support import Support
from rl_transformer.runtime.files import recover_folder
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.mixed_rows import num_numbers
from rl_transformer.windows.normalization import Normalizer

_RESTORE = "restore the folder from a copy"


def load_policy(path: str | Path, *, device: str = "cpu") -> Policy:
    """Load a policy from a run folder or a policy folder.

    Torch, numpy and safetensors are enough for it. ``hub:ORG/NAME@REVISION`` loads from the Hugging Face Hub.

    Raises:
        RLTransformerError: There is no policy, its format is a later one, its content has changed, or it holds
            NaN or infinite values.
    """
    # The network is used only for a path that names the Hub; transformers' loaders also try it for a folder that is
    # misspelled.
    folder = _policy_folder(_download(str(path)) if str(path).startswith("hub:") else user_path(path))
    spec, tensors = read_policy_folder(folder, device=device)
    model = build_model(spec.arch, spec.model, spec.context_length).to(device)
    return_model = spec.build_return_model()
    try:
        model.load_state_dict(_with_prefix(MODEL, tensors))
        if return_model is not None:
            return_model.to(device).load_state_dict(_with_prefix(RETURN_MODEL, tensors))
    except RuntimeError as error:
        problem = f"does not fit policy.json: {error}"
        raise RLTransformerError(problem, where=folder / TENSOR_FILE, fix=_RESTORE) from None
    # Which statistics are absent follows from the spaces, so a missing one would act without normalization, silently.
    statistics = {item.name: tensors.get(NORMALIZER + item.name) for item in fields(Normalizer)}
    missing = [name for name, tensor in statistics.items() if tensor is None and _is_needed(name, spec.data)]
    if missing:
        problem = f"does not fit policy.json: lacks {', '.join(missing)}"
        raise RLTransformerError(problem, where=folder / TENSOR_FILE, fix=_RESTORE)
    sample = {name: tensor.cpu() for name, tensor in _with_prefix(SUPPORT, tensors).items()}
    size = spec.data.observation_space.flat_dim
    support = Support.from_tensors(sample, size, where=folder / TENSOR_FILE)
    check_finite(tensors, where=folder / TENSOR_FILE, fix=f"{_RESTORE}, or train the policy again")
    return Policy(spec, model, Normalizer(**statistics), return_model, support)


def _policy_folder(folder: Path) -> Path:
    """Return the policy folder inside a run folder, or the folder itself if it is one."""
    for place in (folder / "policy", folder):
        recover_folder(place)
    if (folder / "policy" / SPEC_FILE).exists():
        return folder / "policy"
    if not folder.is_dir():
        raise RLTransformerError("no such folder", where=folder, fix=FIX)
    if (folder / SPEC_FILE).exists():
        return folder
    if (folder / "checkpoints").is_dir():
        raise RLTransformerError(
            "the run has not finished: it holds checkpoints and no policy",
            where=folder,
            fix="finish it with rlt train ... --resume",
        )
    raise RLTransformerError("contains no policy.json", where=folder, fix=FIX)


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _is_needed(name: str, data: DataSpec) -> bool:
    """Return True if a policy on this data needs the statistic ``name``."""
    if name.startswith("action_"):
        return data.action_space.is_continuous
    return num_numbers(data.observation_space) > 0


def _download(uri: str) -> Path:
    """Return the local folder of a policy on the Hub, after downloading what is not yet in the cache."""
    # A branch can move; a policy that acts should not change between two starts of a program.
    repository, at, revision = uri.removeprefix("hub:").partition("@")
    if not at or repository.count("/") != 1:
        raise RLTransformerError(
            "is not the name of a policy on the Hub",
            where=uri,
            fix="write it as hub:ORG/NAME@REVISION, with the revision pinned",
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
