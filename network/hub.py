"""Repositories of Hugging Face: weights from there, and a folder to there.

    hf:owner/name                    its model.safetensors
    hf:owner/name:file               another file of it
    hf:owner/name@revision[:file]    of a commit, branch or tag

What is in the cache of huggingface_hub (~/.cache/huggingface/hub, or HF_HUB_CACHE) is taken from
there, without a connection.
"""

import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from common import UserError, reason
from experiment import flags
from runtime.terminal import log

FILE = "model.safetensors"
REQUIREMENT = "huggingface_hub>=1,<3"

_REPOSITORY = r"[\w.-]+/[\w.-]+"
_SOURCE = re.compile(rf"({_REPOSITORY})(?:@([\w./-]+))?(?::(.+))?", re.ASCII)


class Source(NamedTuple):
    """A file of a repository."""

    repository: str
    file: str = FILE
    revision: str = "main"

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.file}"


def parse(text: str) -> Source:
    """What hf:owner/name names. Raises: UserError where it names nothing."""
    match = _SOURCE.fullmatch(text.removeprefix(flags.OF_HUB))
    if not match or ".." in text:
        raise UserError(
            "a file of Hugging Face should be like hf:timm/resnet50.tv_in1k or "
            f"hf:owner/name:folder/net.safetensors. Received: {text}"
        )
    repository, revision, file = match.groups()
    return Source(repository, file or FILE, revision or "main")


def check_package(use: str) -> None:
    """Raises: UserError where huggingface_hub is not installed. `use` begins the message."""
    if not find_spec("huggingface_hub"):
        raise UserError(
            f"{use} takes the package huggingface_hub. Install it: pip install '{REQUIREMENT}'"
        )


def fetch(text: str) -> Path:
    """The file that hf:... names, from the cache, or else downloaded into it.

    Raises:
        UserError: it is not in the cache and cannot be fetched, with what to fetch by hand.
    """
    source = parse(text)
    check_package(text)
    hub = _quiet_hub()
    where = {
        "repo_id": source.repository,
        "filename": source.file,
        "revision": source.revision,
    }
    try:
        return Path(hub.hf_hub_download(**where, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        log.info(f"Fetching {source.address}.")
    try:
        return Path(hub.hf_hub_download(**where))
    except Exception as error:  # those of its HTTP library, which changes with versions
        raise UserError(
            f"cannot fetch {text}: {_why(hub, error)}. {_by_hand(hub, source)}"
        ) from None


def _by_hand(hub: Any, source: Source) -> str:
    folder = Path(hub.constants.HF_HUB_CACHE, f"models--{source.repository.replace('/', '--')}")
    return (
        f"Where there is a connection, fetch {source.address}, and give the file itself as --initial_checkpoint; or "
        f"copy the cache's folder {folder.name} from there to {folder.parent}."
    )


def _why(hub: Any, error: Exception) -> str:
    if isinstance(error, hub.errors.LocalEntryNotFoundError):
        return "it is not in the cache, and the hub cannot be reached"
    if isinstance(error, hub.errors.GatedRepoError):
        return "its owner has to grant access: ask for it on its page, and log in (hf auth login)"
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and you are not logged in (hf auth login)"
    if isinstance(error, hub.errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, hub.errors.EntryNotFoundError):
        return "the repository has no such file. Name one of its files behind a colon"
    return reason(error)[:300]


def _quiet_hub() -> Any:
    """The package, without its retries on stderr, and without bars where no person watches."""
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


# ------------------------------------------------------------------------- to the hub


def create(repository: str) -> None:
    """Make sure that a repository is there and can be written. A new one is private.

    Raises:
        UserError: it has no such name, or cannot be had: no connection, say, or not logged in.
    """
    if not re.fullmatch(_REPOSITORY, repository, re.ASCII):
        raise UserError(f"--push_to_hub should be like owner/name. Received: {repository}")
    _call(
        f"--push_to_hub {repository} is not possible",
        lambda api: api.create_repo(repository, private=True, exist_ok=True),
    )


def push(repository: str, directory: str | os.PathLike) -> None:
    """Upload all files of a directory.

    Raises:
        UserError: it failed. The directory stays.
    """
    _call(
        f"{directory} is written, but was not uploaded",
        lambda api: api.upload_folder(repo_id=repository, folder_path=str(directory)),
        f" Call: hf upload {repository} {directory}",
    )


def _call(what: str, action: Callable[[Any], Any], remedy: str = "") -> None:
    check_package("--push_to_hub")
    hub = _quiet_hub()
    try:
        action(hub.HfApi())
    except Exception as error:  # as above
        raise UserError(
            f"{what}: {reason(error)[:300]}. Log in (hf auth login) with a token that may write.{remedy}"
        ) from None
