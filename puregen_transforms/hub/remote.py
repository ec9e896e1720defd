"""The files of a checkpoint from the Hugging Face Hub, and its errors in words a user can act on."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, HfApi, constants, hf_hub_download, try_to_load_from_cache
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
from puregen_transforms._text import shown
from puregen_transforms.hub.catalogue import Kind
from puregen_transforms.hub.layout import ALTERNATIVES, CheckpointFiles, choose_files, files_of

# The base error of the HTTP library below, which differs between versions of huggingface_hub.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

_COMMIT = re.compile(r"[0-9a-f]{40}")

_LOG = logging.getLogger(__name__)

LOG_IN = "run `hf auth login` or set HF_TOKEN"


def download(
    repo_id: str,
    *,
    kinds: Sequence[Kind],
    revision: str | None,
    cache_dir: Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> tuple[Path, CheckpointFiles, str]:
    """Fetch the files of a checkpoint from one commit, and nothing else.

    Without a revision, a copy of `main` that is already cached is used as it is, with no request:
    weights do not change under a running study. A named branch or tag costs one request to look it
    up, and a commit hash none once it is cached. If a named branch cannot be looked up because the
    Hub is down, its cached copy is used, with a warning.

    Args:
        repo_id: "owner/name".
        kinds: of checkpoint that are accepted; the first that is there is taken.
        revision: branch, tag or commit.
        cache_dir: the Hub cache; default as huggingface_hub has it.
        token: as huggingface_hub has it.
        local_files_only: use only what is cached.

    Returns:
        The folder, the names of the checkpoint's files in it, and the commit hash.

    Raises:
        FileNotFoundError: no such repository, revision or file; or offline and not cached.
        PermissionError: gated, or the token is not good for it.
        ConnectionError: the Hub cannot be reached, or broke off.
        ValueError: an impossible repository id, or a repository with pickle files only or with a
            checkpoint of another kind.
    """
    wanted = revision or constants.DEFAULT_REVISION

    def get(name: str, commit: str, local: bool) -> Path:
        path = hf_hub_download(repo_id, name, revision=commit, cache_dir=cache_dir, token=token, local_files_only=local)
        return Path(path).parents[name.count("/")]

    def get_all(files: CheckpointFiles, commit: str, local: bool) -> tuple[Path, CheckpointFiles, str]:
        for name in files.names:
            folder = get(name, commit, local)
            # The folder is named after the commit: from here on, also where a branch was asked for.
            commit = folder.name
        return folder, files, commit

    def known(name: str) -> bool:
        """Tell whether the commit has the file; LocalEntryNotFoundError if the cache does not know."""
        if try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=wanted) is _CACHED_NO_EXIST:
            return False
        get(name, wanted, True)
        return True

    def get_cached() -> tuple[Path, CheckpointFiles, str]:
        for kind in kinds[:-1]:
            with suppress(LocalEntryNotFoundError):
                return get_all(files_of(kind, known), wanted, True)
        return get_all(files_of(kinds[-1], known), wanted, True)

    with actionable_errors(repo_id, revision, local_files_only=local_files_only):
        offline = local_files_only or constants.HF_HUB_OFFLINE
        if offline or revision is None or _COMMIT.fullmatch(revision):
            try:
                return get_cached()
            except LocalEntryNotFoundError:
                if offline:
                    raise
        try:
            commit, names = _look_up(repo_id, revision, token)
        except TRANSPORT_ERROR as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            try:
                folder, files, commit = get_cached()
            except LocalEntryNotFoundError:
                raise error from None
            warnings.warn(
                f"{constants.ENDPOINT} cannot be reached ({_said(error)}); "
                f"using the cached commit {commit} of {wanted!r}.",
                UserWarning,
                stacklevel=4,
            )
            return folder, files, commit
        # All files by the hash: by the branch's name, a commit made in between would be cached under the wrong hash.
        folder, files, commit = get_all(choose_files(kinds, _place(repo_id, revision), names), commit, False)
        _remember_absent(folder, set(ALTERNATIVES[files.kind]).difference(names))
        if not _COMMIT.fullmatch(wanted):
            _remember(folder, wanted, commit)
        return folder, files, commit


@cache
def _say_where(endpoint: str) -> None:
    """Log once that files come from another server than the Hub: what it answers is believed as the Hub is."""
    if endpoint != getattr(constants, "_HF_DEFAULT_ENDPOINT", endpoint):
        _LOG.warning("Checkpoints come from %s, as HF_ENDPOINT says. It is trusted as the Hub is.", shown(endpoint))


def _look_up(repo_id: str, revision: str | None, token: str | bool | None) -> tuple[str, list[str]]:
    """Ask the Hub for the commit that a revision stands for, and the names of its files."""
    _say_where(constants.ENDPOINT)
    information = HfApi(token=token).model_info(repo_id, revision=revision)
    if information.sha is None or not _COMMIT.fullmatch(information.sha):  # it becomes the name of a folder
        raise ConnectionError(f"Expected a commit hash from {constants.ENDPOINT}, but got none. Check HF_ENDPOINT.")
    return information.sha, [file.rfilename for file in information.siblings or []]


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Note in the cache what a branch stands for, as huggingface_hub does, so that its name works offline."""
    with suppress(OSError):  # a cache may be read-only
        write_atomically(folder.parents[1] / "refs" / revision, commit.encode())


def _remember_absent(folder: Path, names: set[str]) -> None:
    """Note in the cache which files a commit does not have, as huggingface_hub does.

    Without this, a scheduler's configuration that does not exist looks like one not yet downloaded.
    """
    for name in names:
        with suppress(OSError):
            marker = folder.parents[1] / ".no_exist" / folder.name / name
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


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
            f"Expected the checkpoint files of {place} in the cache, because {switch} forbids downloads, "
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
