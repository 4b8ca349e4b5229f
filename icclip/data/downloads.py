"""Fetch images that a dataset names by URL, once, into a cache.

Images are only fetched by http and https and from public addresses. The address is checked when the connection is
made, also for every redirect, so that neither a redirect nor a name that resolves differently the second time can
lead into the user's own network.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from icclip.caches import DOWNLOADS, cache_directory
from icclip.console import Reporter
from icclip.errors import DataError
from icclip.files import atomic_write_bytes

TRIES = 3
SECONDS = 20.0
"""Seconds without an answer after which a try is given up."""
PAUSE = 0.5
"""Seconds before the second try; twice that before the third."""
LARGEST = 64 << 20
"""The largest size of one image in bytes."""
AT_ONCE = 16
FINAL = frozenset({400, 401, 403, 404, 405, 410, 451})
"""Answers for which another try is pointless."""


def fetch_all(urls: Sequence[str], reporter: Reporter) -> dict[str, Path | DataError]:
    """Fetch every URL into the cache.

    Returns:
        For each URL its file, or the reason why it could not be fetched.

    Raises:
        UsageError: the cache cannot be written.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool, reporter.progress("downloading images", total=len(urls)) as advance:
        found = {}
        for url, result in zip(urls, pool.map(_outcome, urls), strict=True):
            found[url] = result
            advance(1)
    return found


def _outcome(url: str) -> Path | DataError:
    try:
        return fetch(url)
    except DataError as error:
        return error


def fetch(url: str, *, largest: int = LARGEST, suffix: str = "") -> Path:
    """The file that holds the content of a URL, fetched unless it is in the cache.

    Args:
        url: a URL with the scheme http or https.
        largest: the largest accepted size in bytes.
        suffix: the suffix of the file's name.

    Raises:
        DataError: the URL has another scheme or a private address, three tries failed, or the file is too large.
        UsageError: the cache cannot be written.
    """
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    path = cache_directory() / DOWNLOADS / name[:2] / f"{name}{suffix}"
    if not path.is_file():
        if not url.lower().startswith(("http://", "https://")):
            raise DataError(f"{url:.200}: only http and https are fetched")
        atomic_write_bytes(path, _with_retries(url, largest))
    return path


def _with_retries(url: str, largest: int) -> bytes:
    for attempt in range(1, TRIES + 1):
        try:
            return _content(url, largest)
        except urllib.error.HTTPError as error:
            reason, final = f"the server answers {error.code} {error.reason}", error.code in FINAL
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, _PrivateAddressError):
                raise DataError(f"{url:.200}: {cause}") from error
            # ValueError means a malformed URL.
            reason, final = str(cause) or type(cause).__name__, isinstance(cause, ValueError)
        if final or attempt == TRIES:
            break
        time.sleep(PAUSE * attempt)
    raise DataError(f"{url:.200}: {reason} (tried {attempt} times)" if attempt > 1 else f"{url:.200}: {reason}")


def _content(url: str, largest: int) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "icclip"})  # noqa: S310
    with _opener().open(request, timeout=SECONDS) as answer:
        content: bytes = answer.read(largest + 1)
    if len(content) > largest:
        raise DataError(f"{url:.200}: more than {largest >> 20} MB")
    return content


# Only public addresses --------------------------------------------------------------------------


class _PrivateAddressError(OSError):
    """The host's address is not public."""


def is_public(address: str) -> bool:
    """Whether an IP address may be connected to, because it belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not ip.is_multicast


def _connect(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
    """Like `socket.create_connection`, but only to public addresses; the checked address is the one that is used."""
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, target in found:
        if not is_public(str(target[0])):
            raise _PrivateAddressError(f"{host} is {target[0]}, which is no public address")
    failure = OSError(f"{host} has no address")
    for *_, target in found:
        try:
            return socket.create_connection((str(target[0]), port), *arguments, **options)
        except OSError as error:
            failure = error
    raise failure


class _Http(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = _connect


class _Https(http.client.HTTPSConnection):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = _connect


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(_Http, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        return self.do_open(_Https, request)


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener for http and https that follows redirects and uses no proxy, behind which addresses cannot be checked."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _HttpHandler(),
        _HttpsHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
