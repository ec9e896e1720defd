"""The two files of a checkpoint from the Hugging Face Hub, and its errors in words a user can act on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from puregen_transforms._files import write_atomically
from puregen_transforms.hub.layout import CONFIG_FILE, WEIGHTS_FILE, missing_file_error

# The base error of the HTTP library below, which differs between versions of huggingface_hub.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

_COMMIT = re.compile(r"[0-9a-f]{40}")

LOG_IN = "run `hf auth login` or set HF_TOKEN"


def download(
    repo_id: str,
    *,
    revision: str | None,
    cache_dir: Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> tuple[Path, str]:
    """Fetch `config.json` and `model.safetensors` of one commit, and nothing else.

    Without a revision, a copy of `main` that is already cached is used as it is, with no request:
    weights do not change under a running study. A named branch or tag costs one request to look it
    up, and a commit hash none once it is cached. If a named branch cannot be looked up because the
    Hub is down, its cached copy is used, with a warning.

    Returns:
        The folder with both files, and the commit hash.

    Raises:
        FileNotFoundError: no such repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
        ValueError: an impossible repository id, or a repository with pickle files only.
    """
    wanted = revision or constants.DEFAULT_REVISION

    def get(commit: str, local: bool) -> tuple[Path, str]:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            path = hf_hub_download(
                repo_id, name, revision=commit, cache_dir=cache_dir, token=token, local_files_only=local
            )
            # The folder is named after the commit: from here on, also where a branch was asked for.
            commit = Path(path).parent.name
        return Path(path).parent, commit

    with actionable_errors(repo_id, revision, local_files_only=local_files_only):
        offline = local_files_only or constants.HF_HUB_OFFLINE
        if offline or revision is None or _COMMIT.fullmatch(revision):
            try:
                return get(wanted, True)
            except LocalEntryNotFoundError:
                if offline:
                    raise
        try:
            commit = _look_up(repo_id, revision, token)
        except TRANSPORT_ERROR as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            try:
                folder, commit = get(wanted, True)
            except LocalEntryNotFoundError:
                raise error from None
            warnings.warn(
                f"{constants.ENDPOINT} cannot be reached ({_said(error)}); "
                f"using the cached commit {commit} of {wanted!r}.",
                UserWarning,
                stacklevel=3,
            )
            return folder, commit
        # Both files by the hash: by the branch's name, a commit made in between would be cached under the wrong hash.
        folder, commit = get(commit, False)
        if not _COMMIT.fullmatch(wanted):
            _remember(folder, wanted, commit)
        return folder, commit


def _look_up(repo_id: str, revision: str | None, token: str | bool | None) -> str:
    """The commit a revision stands for, after checking that it has both files."""
    information = HfApi(token=token).model_info(repo_id, revision=revision)
    names = [file.rfilename for file in information.siblings or []]
    if not {CONFIG_FILE, WEIGHTS_FILE}.issubset(names):
        raise missing_file_error(_place(repo_id, revision), names)
    if information.sha is None:
        raise ConnectionError(f"Expected a commit hash from {constants.ENDPOINT}, but got none. Check HF_ENDPOINT.")
    return information.sha


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Note in the cache what a branch stands for, as huggingface_hub does, so that its name works offline."""
    with suppress(OSError):  # a cache may be read-only
        write_atomically(folder.parents[1] / "refs" / revision, commit.encode())


@contextmanager
def actionable_errors(repo_id: str, revision: str | None, *, local_files_only: bool = False) -> Iterator[None]:
    """Turn errors of huggingface_hub into builtin ones that say what to do."""
    place = _place(repo_id, revision)
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f'Expected a Hub repository id "owner/name", but got {repo_id!r}: {error}') from error
    except GatedRepoError as error:
        raise PermissionError(
            f"Access to {place} has to be asked for: open {constants.ENDPOINT}/{repo_id} in a browser, then {LOG_IN}."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"Expected a Hub repository {repo_id!r}, but there is none that this login may see, nor a "
            f"folder of that name here. Check the spelling; if it is private, {LOG_IN} with a token that may read it."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"Expected revision {revision!r} in Hub repository {repo_id!r}, but it has no such branch, tag or commit. "
            f"See {constants.ENDPOINT}/{repo_id}/commits/main."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _not_cached(place, error, local_files_only=local_files_only) from error
    except BadRequestError as error:
        raise ValueError(f"The Hub refused a request about {place}: {_said(error)}") from error
    except HfHubHTTPError as error:
        raise _refused(place, error) from error
    except TRANSPORT_ERROR as error:
        raise ConnectionError(
            f"The connection to {constants.ENDPOINT} failed ({error}). Check the network, proxy and HF_ENDPOINT, and "
            "try again."
        ) from error
    except OSError as error:
        # huggingface_hub reports a download of the wrong length as a bare OSError; the operating system's have a code.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise ConnectionError(f"The download from {place} failed; try again. {error}") from error


def _place(repo_id: str, revision: str | None) -> str:
    return f"Hub repository {repo_id!r}" + (f" at revision {revision!r}" if revision else "")


def _not_cached(place: str, error: Exception, *, local_files_only: bool) -> FileNotFoundError | ConnectionError:
    if local_files_only or constants.HF_HUB_OFFLINE:
        switch = "`local_files_only`" if local_files_only else "HF_HUB_OFFLINE"
        return FileNotFoundError(
            f"Expected {CONFIG_FILE} and {WEIGHTS_FILE} of {place} in the cache, because {switch} forbids downloads, "
            f"but they are not there. Load it once with {switch} off, or check `cache_dir` and HF_HOME."
        )
    reason = error.__cause__ or error
    return ConnectionError(
        f"{place} is not cached, and {constants.ENDPOINT} cannot be reached ({reason}). Check the network, proxy and "
        "HF_ENDPOINT, and try again."
    )


def _refused(place: str, error: HfHubHTTPError) -> PermissionError | ConnectionError:
    if error.response.status_code in (401, 403):
        return PermissionError(
            f"The login may not do this with {place}: {LOG_IN} with a token that may. {_said(error)}"
        )
    return ConnectionError(f"The Hub failed on a request about {place}; try again later. {_said(error)}")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())
