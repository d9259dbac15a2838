"""Upload a folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from hero_pl.errors import ConfigError, HeroError


def check_name(name: str) -> None:
    """Check that the hub accepts a name, before anything is computed.

    Raises:
        ConfigError: It is not of the form ``user/name``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push {name!r}: {error} Give USER/NAME, for example me/my-agent.") from error


def check_license(name: str) -> None:
    """Check that a text can be the identifier of a license.

    Raises:
        ConfigError: It cannot be one.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", name):
        raise ConfigError(
            f"--license {name!r}: expected an identifier as the Hugging Face hub spells it, for example apache-2.0, "
            "mit, llama3.2, or unknown."
        )


def push(folder: Path, name: str, kind: Literal["model", "dataset"], public: bool = False, api: Any = None) -> str:
    """Upload a folder; the repository is created if needed. Uses the key of ``hf auth login`` or ``HF_TOKEN``.

    Args:
        folder: Folder with a README.md.
        name: ``user/name``.
        kind: Kind of repository.
        public: Whether a repository that is created here is public; an existing one does not change.
        api: A ``huggingface_hub.HfApi``; default: one with the usual settings.

    Returns:
        Address of the repository.

    Raises:
        HeroError: The hub cannot be reached or refuses; the folder stays, and the message says how to upload it later.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    try:
        place = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message=f"Upload the {kind} with hero_pl"
        )
    except Exception as error:  # the client of the hub and its HTTP client raise many types of errors
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise HeroError(
            f"{folder} was written, but it could not be uploaded to {name}: {reason} Log in with hf auth login if that "
            f"is missing, then upload it with: hf upload {name} {folder} --repo-type {kind}"
        ) from error
    return str(place)
