"""Upload a policy to the Hugging Face Hub: safetensors, JSON and a model card, private unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.evaluation.stored_reports import StoredReport, read_report
from rl_transformer.hub.card import make_card
from rl_transformer.policy import load_policy
from rl_transformer.policy.storage import SPEC_FILE, TENSOR_FILE
from rl_transformer.runtime.files import MANIFEST
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import read_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPORT = "report.json"
CARD = "README.md"
_RESTORE = "restore the folder from a copy"


@dataclass(frozen=True)
class Pushed:
    """Holds where a policy is on the Hub."""

    uri: str
    """hub:ORG/NAME@COMMIT, which `load_policy` takes."""
    files: tuple[str, ...]
    private: bool


def policy_files(
    run: str | Path, repository: str, *, baselines: Sequence[str] = (), license_id: str | None = None
) -> dict[str, bytes]:
    """Return what is uploaded, by name: the policy's three files, its evaluation if there is one, and the card.

    Args:
        run: Run folder, or policy folder.
        repository: ORG/NAME on the Hub.
        baselines: Run folders or report.json files to set beside it in the card.
        license_id: Licence in the Hub's spelling.

    Raises:
        RLTransformerError: There is no verified policy, or a report is missing, malformed or of another policy.
    """
    policy = load_policy(run)  # verifies every byte; what cannot be loaded is not shared
    folder = user_path(run)
    inside = folder / "policy" if (folder / "policy" / SPEC_FILE).exists() else folder
    files = {name: read_bytes(inside / name, fix=_RESTORE) for name in (SPEC_FILE, TENSOR_FILE, MANIFEST)}
    report = _report_of(folder, policy.content_hash)
    if report is not None:
        files[REPORT] = read_bytes(report.path, fix=_RESTORE)
    beside = [(name, _read_baseline(name)) for name in baselines]
    card = make_card(policy, repository=repository, report=report, baselines=beside, license_id=license_id)
    files[CARD] = card.encode()
    return files


def push_policy(
    files: Mapping[str, bytes], repository: str, *, private: bool = True, message: str = "Upload a policy"
) -> Pushed:
    """Upload the files in one commit, and create the repository if there is none.

    The token is the one that the Hub's own tools use: ``hf auth login``, or the variable HF_TOKEN. It is never written.

    Raises:
        RLTransformerError: The Hub cannot be reached or refuses; or the repository is public and ``private`` is True.
    """
    require("huggingface_hub", extra="hub", purpose="rlt push")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        # The Hub's own check also accepts a bare name, without the owner that a policy's address names.
        if repository.count("/") != 1:
            raise HFValidationError("it is not ORG/NAME")
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RLTransformerError(
            f"is not a name of a repository: {error}",
            where=repository,
            fix="write it as ORG/NAME, for example me/hopper",
        ) from None
    api = HfApi()
    try:
        # Created and looked at before anything is sent.
        is_private = _create(api, repository, private=private)
        # One commit: readers see the whole policy or nothing.
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        commit = api.create_commit(repository, operations, commit_message=message)
    except RLTransformerError:
        raise
    except Exception as error:  # the Hub's client raises errors of several HTTP libraries
        raise RLTransformerError(
            f"cannot be pushed: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            where=repository,
            fix="log in with hf auth login (or set HF_TOKEN to a token that may write), and check the name and the network",
        ) from error
    return Pushed(f"hub:{repository}@{commit.oid}", tuple(sorted(files)), is_private)


def _create(api: HfApi, repository: str, *, private: bool) -> bool:
    """Create the repository if there is none; return True if it is private.

    Raises:
        RLTransformerError: It exists and everybody can read it, and that was not said to be wanted.
    """
    api.create_repo(repository, private=private, exist_ok=True)
    # `exist_ok` leaves the visibility of an existing repository as it is, so that it has to be looked up.
    is_private = bool(api.repo_info(repository).private)
    if private and not is_private:
        raise RLTransformerError(
            "is public, and nothing was uploaded", where=repository, fix="pass --public, or make it private on the Hub"
        )
    return is_private


def _report_of(folder: Path, content_hash: str) -> StoredReport | None:
    """Return the run's own evaluation, or None if there is none.

    Raises:
        RLTransformerError: It evaluates another policy.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    report = read_report(path)
    # A card with the scores of other weights would be false.
    if report.policies != [content_hash]:
        raise RLTransformerError(
            "evaluates a different policy from the one in this folder",
            where=path,
            fix=f"evaluate this one with rlt evaluate {folder} ... --json {path}, or remove the file",
        )
    return report


def _read_baseline(name: str) -> StoredReport:
    path = user_path(name)
    fix = "name a run folder with a report.json, or the file that rlt evaluate --json wrote"
    return read_report(path / REPORT if path.is_dir() else path, fix=fix)
