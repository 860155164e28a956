"""An export on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from speakeasy.errors import SpeakeasyError, UsageError, first_line


def check_repository(repository: str) -> None:
    """See that an upload can be tried at all, before anything is exported.

    Raises:
        UsageError: the name is none of the Hub's, or no token is stored on this machine.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    wrong = f"--push-to-hub {repository}: not a Hub name; expected OWNER/NAME"
    if "/" not in repository:
        raise UsageError(wrong)
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise UsageError(wrong) from None
    if get_token() is None:
        raise UsageError(
            f"--push-to-hub {repository}: no token; run hf auth login, or set HF_TOKEN"
        )


def push(folder: Path, repository: str) -> str:
    """Upload a finished export; a repository that does not exist yet is made, and is private.

    Returns:
        The address of the commit.

    Raises:
        SpeakeasyError: the Hub refuses or is out of reach. The export stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message="Export by speakeasy",
        )
    except Exception as error:  # a transfer can break in the ways of four libraries
        raise SpeakeasyError(
            f"--push-to-hub {repository}: {first_line(error)}; the export is in {folder}, upload "
            f"it with: hf upload {repository} {folder}"
        ) from error
    return commit.commit_url
