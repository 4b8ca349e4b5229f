"""The Hugging Face hub: bringing repositories to the disk, and its refusals in one line each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.errors import (
    EntryNotFoundError,
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
from icclip.bundles.reading import shorten
from icclip.errors import CheckpointError

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name can only be that of a repository: `OWNER/NAME`, and nothing of that name is on the disk."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).expanduser().exists()


def download(name: str, revision: str | None, *, allow: Sequence[str] | None, ignore: Sequence[str] = ()) -> Path:
    """The directory in the hub's cache that holds a repository's files, downloaded where they are missing.

    Args:
        name: `OWNER/NAME`.
        revision: a branch, tag or commit; None: `main`.
        allow: patterns of the files that are wanted; None: all of them.
        ignore: patterns of files that are not.

    Raises:
        CheckpointError: the hub does not have it, refuses it, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _quiet(), refusals(name, revision):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=None if allow is None else list(allow),
                ignore_patterns=list(ignore) or None,
            )
        )


def bundle_or_record(name: str, revision: str | None = None) -> Path | None:
    """What icclip published under a name on the hub, in the hub's cache.

    Args:
        name: what the user calls a checkpoint; only one that can be nothing but a hub id is looked for.
        revision: a branch, tag or commit; None: `main`.

    Returns:
        The directory of a whole bundle; or the one that holds the `icclip.json` of a run, without its weights;
        None where the name is no hub id, or the repository is not icclip's or cannot be had: whoever opens it
        says why.

    Raises:
        CheckpointError: the repository is a bundle, and its other files cannot be had.
    """
    from huggingface_hub import hf_hub_download

    if not is_hub_id(name):
        return None
    try:
        with _quiet():
            record = Path(hf_hub_download(name, MANIFEST, revision=revision))
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OfflineModeIsEnabled, OSError):
        return None
    return download(name, revision, allow=None) if is_bundle(record.parent) else record.parent


@contextlib.contextmanager
def refusals(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn whatever the hub's client raises about reading a repository into one line.

    Raises:
        CheckpointError: the hub does not have it, refuses it, or cannot be reached.
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
def _quiet() -> Iterator[None]:
    """Without the hub's own progress bars, which do not know whether anybody watches."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
