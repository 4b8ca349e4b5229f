"""The Hugging Face hub: download repositories, and turn its refusals into one line each."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from icclip.bundles.manifest import NAME as MANIFEST
from icclip.bundles.manifest import is_bundle
from icclip.errors import CheckpointError, shorten

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a repository: it has the form `OWNER/NAME`, and nothing on the disk has this name."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).expanduser().exists()


def download(name: str, revision: str | None, *, allow: Sequence[str] | None, ignore: Sequence[str] = ()) -> Path:
    """Return the directory of a repository's files in the hub's cache; missing files are downloaded.

    Args:
        name: `OWNER/NAME`.
        revision: a branch, tag or commit; None means `main`.
        allow: patterns of the files to download; None means all.
        ignore: patterns of files that are not downloaded.

    Raises:
        CheckpointError: the hub does not have the repository, refuses access, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with quiet_hub(), refusals(name, revision):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=None if allow is None else list(allow),
                ignore_patterns=list(ignore) or None,
            )
        )


def bundle_or_record(name: str, revision: str | None = None) -> Path | None:
    """Find what icclip published under a name on the hub, in the hub's cache.

    Args:
        name: the checkpoint as the user names it; it is only looked up if it can only be a hub id.
        revision: a branch, tag or commit; None means `main`.

    Returns:
        The directory of a whole bundle, or the one with the `icclip.json` of a run, without its weights. None if the
        name is not a hub id, or if the repository is not icclip's or not accessible, which is reported when it is
        opened.

    Raises:
        CheckpointError: the repository is a bundle, but its other files cannot be downloaded.
    """
    return _published(name, revision) if is_hub_id(name) else None


@functools.cache
def _published(name: str, revision: str | None) -> Path | None:
    """As `bundle_or_record`; the hub is asked once, however many parts of a command want to know."""
    try:
        # Asked for as a snapshot: the client repeats the request for a single file for half a minute where there
        # is no network, and says so each time.
        place = download(name, revision, allow=[MANIFEST])
    except CheckpointError:
        return None
    if is_bundle(place):
        return download(name, revision, allow=None)
    return place if (place / MANIFEST).is_file() else None


@contextlib.contextmanager
def refusals(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn any error of the hub's client while reading a repository into one line.

    Raises:
        CheckpointError: the hub does not have the repository, refuses access, or cannot be reached.
    """
    label = f"{name}@{revision}" if revision else name
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(f"{label} is gated: accept its terms on the hub, then run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{label} is neither a directory nor on the hub: check the spelling, or log in if it is private"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{label} is neither a directory nor a valid hub id: {shorten(str(error))}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{label} is not a directory here, is not in the cache, and the hub cannot be reached: "
            "give a local directory, or unset HF_HUB_OFFLINE and check the network"
        ) from error


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Hide the hub's own progress bars, which also appear where nobody watches."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
