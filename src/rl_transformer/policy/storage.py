"""Read and write the policy folder.

It holds policy.json (the spec), policy.safetensors (weights and statistics) and manifest.json (the SHA-256 of both).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from rl_transformer.config.migrations import migrate_policy_tensor
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.spec import FORMAT_VERSION, PolicySpec
from rl_transformer.runtime import disk
from rl_transformer.runtime.files import MANIFEST, to_json, write_folder, write_text
from rl_transformer.runtime.reading import check_limit, parse_json, parse_tensors, read_bytes

FIX = "name a run folder of rlt train, or its policy folder"
RESTORE = "restore the folder from a copy, or write it again"
SPEC_FILE = "policy.json"
TENSOR_FILE = "policy.safetensors"
NORMALIZER = "normalizer."
# The bounds of actions that have none.
_MAY_BE_INFINITE = (NORMALIZER + "action_low", NORMALIZER + "action_high")
_ATTEMPTS = 20


def write_policy_folder(folder: Path, spec: PolicySpec, tensors: dict[str, Tensor]) -> None:
    """Write a policy folder completely, or leave the disk unchanged if that fails."""

    def fill(temporary: Path) -> None:
        write_text(temporary / SPEC_FILE, to_json(spec.to_dict()))
        disk.DISK.save_tensors(temporary / TENSOR_FILE, tensors)

    write_folder(folder, fill)


def read_policy_folder(folder: Path, *, device: str) -> tuple[PolicySpec, dict[str, Tensor]]:
    """Read a policy folder of this or an earlier format; every byte is checked against the manifest.

    A folder that is replaced meanwhile is read again: the spec and the tensors are always of one policy.

    Raises:
        RLTransformerError: There is no policy, its format is a later one, or its content has changed.
    """
    content = _read_verified(folder)
    values = parse_json(content[SPEC_FILE], where=folder / SPEC_FILE, fix=FIX)
    spec = PolicySpec.from_dict(values, where=folder / SPEC_FILE)
    tensors = parse_tensors(content[TENSOR_FILE], where=folder / TENSOR_FILE, fix=FIX)
    _check_sizes(spec, sum(tensor.numel() for tensor in tensors.values()), where=folder / SPEC_FILE)
    # Earlier versions had other names for some tensors; their content is the same.
    if values["format_version"] < FORMAT_VERSION:
        tensors = {migrate_policy_tensor(name): tensor for name, tensor in tensors.items()}
    return spec, {name: tensor.to(device) for name, tensor in tensors.items()}


def _check_sizes(spec: PolicySpec, num_stored: int, *, where: Path) -> None:
    """Check declared sizes before networks of these sizes are built, which could fill the memory or take for ever.

    Raises:
        RLTransformerError: A size is above its limit, or needs more numbers than the tensor file holds.
    """
    model = spec.model
    declared = {
        "n_layer": model.n_layer,
        "hidden_size": model.hidden_size,
        "context_length": spec.context_length,
        "table_rows": model.max_ep_len,
    }
    for name, value in declared.items():
        check_limit(name, value, where=where, fix=RESTORE)
    # Less than the networks have, so that no genuine policy is refused. Trunks of transformers may share their weights.
    width = model.hidden_size
    observation = spec.data.observation_space
    needed = (model.n_layer - 1) * width**2 if model.blocks == "gpt2" and model.trunk is None else width
    if spec.arch == "decision_transformer":
        needed += (model.max_ep_len + model.act_dim + sum(model.widths)) * width
        needed += model.inner_size * width if model.blocks == "gpt2" and model.trunk is None else 0
    if not observation.is_image and observation.streams is None:
        needed += observation.flat_dim * width
    if needed > num_stored:
        raise RLTransformerError(
            f"declares sizes that need {needed:,} numbers or more, and {TENSOR_FILE} holds {num_stored:,}",
            where=where,
            fix=RESTORE,
        )


def _read_verified(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the policy's files that fit the manifest, each of them read once."""
    # Only these two names are opened, whatever the manifest lists. They may be links, as in the cache of the Hub.
    for _ in range(_ATTEMPTS):
        before = _read_manifest(folder)
        try:
            return _read_files(folder, before)
        except RLTransformerError:
            # If the manifest is another one now, the folder was replaced while it was read, and nothing is damaged.
            if _read_manifest(folder) == before:
                raise
    raise RLTransformerError(
        f"was replaced {_ATTEMPTS} times while it was read", where=folder, fix="load it when no process is writing it"
    )


def _read_manifest(folder: Path) -> bytes:
    return read_bytes(folder / MANIFEST, fix=RESTORE, limit="json_bytes")


def _read_files(folder: Path, manifest: bytes) -> dict[str, bytes]:
    """Return the bytes of both files.

    Raises:
        RLTransformerError: The manifest does not list a file, or a file has another size or content.
    """
    where = folder / MANIFEST
    files = parse_json(manifest, where=where, fix=RESTORE).get("files")
    content = {}
    for name in (SPEC_FILE, TENSOR_FILE):
        expected = files.get(name) if isinstance(files, dict) else None
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= set(expected):
            raise RLTransformerError(f"does not list {name} with its size and hash", where=where, fix=RESTORE)
        content[name] = read_bytes(folder / name, fix=RESTORE)
        size = len(content[name])
        if size != expected["bytes"]:
            problem = f"has {size} bytes, not the {expected['bytes']} that were written"
            raise RLTransformerError(problem, where=folder / name, fix=RESTORE)
        if hashlib.sha256(content[name]).hexdigest() != expected["sha256"]:
            problem = "has changed since it was written (SHA-256 differs)"
            raise RLTransformerError(problem, where=folder / name, fix=RESTORE)
    return content


def check_finite(tensors: dict[str, Tensor], *, where: object, fix: str) -> None:
    """Raise an error that names the first tensor with NaN or infinite values: the policy could not act."""
    for name, tensor in tensors.items():
        is_nan = bool(tensor.isnan().any())
        if is_nan or (name not in _MAY_BE_INFINITE and bool(tensor.isinf().any())):
            kind = "NaN" if is_nan else "an infinite value"
            raise RLTransformerError(f"the policy holds {kind}: {name}", where=where, fix=fix)
