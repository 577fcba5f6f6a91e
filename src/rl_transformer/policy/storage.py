"""Read and write the policy folder.

It holds policy.json (the spec), policy.safetensors (weights and statistics) and manifest.json (the SHA-256 of both).
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_transformer.config.migrations import migrate_policy_tensor
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.spec import FORMAT_VERSION, PolicySpec
from rl_transformer.runtime.files import read_json, to_json, verify_folder, write_folder, write_text

FIX = "name a run folder of rlt train, or its policy folder"
SPEC_FILE = "policy.json"
TENSOR_FILE = "policy.safetensors"
NORMALIZER = "normalizer."
# The bounds of actions that have none.
_MAY_BE_INFINITE = (NORMALIZER + "action_low", NORMALIZER + "action_high")


def write_policy_folder(folder: Path, spec: PolicySpec, tensors: dict[str, Tensor]) -> None:
    """Write a policy folder completely, or leave the disk unchanged if that fails."""

    def fill(temporary: Path) -> None:
        write_text(temporary / SPEC_FILE, to_json(spec.to_dict()))
        save_file(tensors, temporary / TENSOR_FILE, metadata={"format": "pt"})

    write_folder(folder, fill)


def read_policy_folder(folder: Path, *, device: str) -> tuple[PolicySpec, dict[str, Tensor]]:
    """Read a policy folder of this or an earlier format; every byte is checked against the manifest.

    Raises:
        RLTransformerError: There is no policy, its format is a later one, or its content has changed.
    """
    verify_folder(folder, required=(SPEC_FILE, TENSOR_FILE))
    values = read_json(folder / SPEC_FILE, fix=FIX)
    spec = PolicySpec.from_dict(values, where=folder / SPEC_FILE)
    try:
        tensors = load_file(folder / TENSOR_FILE, device=device)
    except (OSError, SafetensorError) as error:
        raise RLTransformerError(f"cannot be read: {error}", where=folder / TENSOR_FILE, fix=FIX) from None
    # Earlier versions had other names for some tensors; their content is the same.
    if values["format_version"] < FORMAT_VERSION:
        tensors = {migrate_policy_tensor(name): tensor for name, tensor in tensors.items()}
    return spec, tensors


def check_finite(tensors: dict[str, Tensor], *, where: object, fix: str) -> None:
    """Raise an error that names the first tensor with NaN or infinite values: the policy could not act."""
    for name, tensor in tensors.items():
        is_nan = bool(tensor.isnan().any())
        if is_nan or (name not in _MAY_BE_INFINITE and bool(tensor.isinf().any())):
            kind = "NaN" if is_nan else "an infinite value"
            raise RLTransformerError(f"the policy holds {kind}: {name}", where=where, fix=fix)
