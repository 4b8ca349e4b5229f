"""Publish a run or a bundle as a commit on the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icclip.config import PushConfig
from icclip.console import Reporter
from icclip.errors import UsageError, shorten
from icclip.hub import quiet_hub
from icclip.plugins.registry import Registry
from icclip.publishing.files import stale
from icclip.publishing.request import Publication, publication
from icclip.report.publication import publication_table

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from rich.console import RenderableType

UNAUTHORIZED, FORBIDDEN = 401, 403
GO_ON = "what was uploaded stays on the hub: repeat the command to go on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was published on the hub, or would be."""

    repository: str
    kind: str
    sizes: dict[str, int]
    """The size in bytes of each file by its name in the repository."""
    removed: tuple[str, ...] = ()
    """Files of an earlier publication that are not part of this one."""
    url: str | None = None
    """The page of the repository; None if nothing was published (`--dry-run`)."""
    commit: str | None = None
    private: bool | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "repository": self.repository,
            "kind": self.kind,
            "published": self.url is not None,
            "url": self.url,
            "commit": self.commit,
            "private": self.private,
            "files": [{"path": path, "size": size} for path, size in self.sizes.items()],
            "removed": list(self.removed),
        }

    def renderables(self) -> Iterable[RenderableType]:
        """The files and the page of the repository."""
        from rich.text import Text

        yield publication_table(f"{self.repository} ({self.kind})", self.sizes)
        if self.removed:
            yield Text(f"Removed from the repository: {', '.join(self.removed)}")
        if self.url is None:
            yield Text("Nothing was published: this was a dry run.")
        else:
            yield Text(f"{self.url} ({'private' if self.private else 'public'})")

    def verdict(self) -> None:
        """Publishing always succeeds here, because a failure has already raised UsageError."""


def push(config: PushConfig, registry: Registry, reporter: Reporter) -> Pushed:
    """Publish a run or a bundle as one commit.

    Large files are uploaded one by one before the commit, and the hub keeps them: when an interrupted upload is
    repeated, it continues with the next file. A half-finished publication is never visible.

    Raises:
        UsageError: the source cannot be published, or the hub refuses.
        CheckpointError: a file of the bundle is missing or was changed.
    """
    found = publication(config, registry, reporter)
    sizes = {item.path: item.size for item in found.items}
    if config.dry_run:
        return Pushed(repository=config.repository, kind=found.kind, sizes=sizes)
    if config.license is None:
        reporter.note("The card names no licence: give --license, such as --license apache-2.0.")
    from huggingface_hub import HfApi

    with _refusals(config.repository):
        api = HfApi()
        private = _opened(api, config)
        removed = stale(api.list_repo_files(config.repository, revision=config.branch), sizes)
        commit = _committed(api, config, found, removed, reporter)
    return Pushed(
        repository=config.repository, kind=found.kind, sizes=sizes, removed=tuple(removed),
        url=f"{api.endpoint}/{config.repository}", commit=commit, private=private,
    )  # fmt: skip


def _opened(api: HfApi, config: PushConfig) -> bool:
    """Create the repository and the branch if they are missing; returns whether the repository is private.

    Raises:
        UsageError: the repository is public, but `--public` was not given.
    """
    api.create_repo(config.repository, private=not config.public, exist_ok=True)
    private = bool(api.repo_info(config.repository).private)
    if not private and not config.public:
        raise UsageError(f"{config.repository} is public already: give --public to publish there, or another name")
    if config.branch is not None:
        api.create_branch(config.repository, branch=config.branch, exist_ok=True)
    return private


def _committed(api: HfApi, config: PushConfig, found: Publication, removed: list[str], reporter: Reporter) -> str:
    """Upload what the hub does not have yet, then commit everything; returns the id of the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = [CommitOperationAdd(item.path, item.content) for item in found.items]
    with reporter.progress("uploading", sum(item.size for item in found.items)) as advance:
        for item, addition in zip(found.items, additions, strict=True):
            # Uploaded one at a time, so that uploaded files are not sent again when the command is repeated.
            api.preupload_lfs_files(config.repository, [addition], revision=config.branch, free_memory=False)
            advance(item.size)
    info = api.create_commit(
        config.repository,
        [*additions, *(CommitOperationDelete(name) for name in removed)],
        commit_message=config.message or f"icclip: {found.kind} {config.source.resolve().name}",
        revision=config.branch,
    )
    return str(info.oid)


@contextlib.contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Turn any error of the hub's client while writing into one line, without the token.

    Raises:
        UsageError: there is no token, it may not write there, or the connection broke.
    """
    from huggingface_hub.errors import BadRequestError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        with quiet_hub():
            yield
    except LocalTokenNotFoundError as error:
        raise UsageError("the hub does not know who you are: run `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise UsageError("HF_HUB_OFFLINE is set: unset it to publish") from error
    except BadRequestError as error:
        raise UsageError(f"the hub refuses the publication {repository}: {_said(error)}") from error
    except HfHubHTTPError as error:
        raise UsageError(_refused(repository, error)) from error
    except _broken_connections() as error:
        raise UsageError(f"the connection to the hub broke ({type(error).__name__}); {GO_ON}") from error
    except RuntimeError as error:
        # The client raises this for any failure while it uploads a large file.
        if "while uploading" not in str(error):
            raise
        raise UsageError(f"an upload to the hub failed ({_said(error.__cause__ or error)}); {GO_ON}") from error


def _refused(repository: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == UNAUTHORIZED:
        return "the hub does not accept your token, or there is none: run `hf auth login`, or set HF_TOKEN"
    if status == FORBIDDEN:
        return f"your token may not write to {repository}: it needs the right to write, and you must be a member of that organisation"
    return f"the hub answered {status} for {repository}: {_said(error)}; {GO_ON}"


def _said(error: Any) -> str:
    """The hub's own message on one line; URLs lose their query, which may be signed."""
    words = str(getattr(error, "server_message", None) or error).split()
    return shorten(" ".join(word.partition("?")[0] if "://" in word else word for word in words), 200)


def _broken_connections() -> tuple[type[Exception], ...]:
    """The exceptions of a broken connection: an OSError of requests before version 1 of the client, then an error of httpx."""
    try:
        import httpx
    except ModuleNotFoundError:
        return (OSError,)
    return (OSError, httpx.HTTPError)
