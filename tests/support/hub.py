"""A hub on loopback: serves directories in the HTTP layout that huggingface_hub and datasets speak.

    root/models/owner/name/...                                      the revision `main`
    root/datasets/owner/name@refs%2Fconvert%2Fparquet/...           another revision

HF_ENDPOINT is read when the libraries are imported, so what talks to it runs in a process of its own,
with `Hub.environment()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

REPOSITORY = Path(__file__).parents[2]
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.*))?)?)?")
WRITE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)")
LFS = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
BLOB = re.compile(r"/blobs/([0-9a-f]{64})")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Hub:
    """A running server; put repositories below `root` at any time."""

    root: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """`METHOD path` of all requests, in order."""
    token: str | None = None
    """What a client must send to write; None: nobody may write."""
    private: dict[str, bool] = field(default_factory=dict)
    """Repository -> whether it was created as a private one."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> the content of a large file, which is uploaded before the commit that names it."""
    commits: list[dict] = field(default_factory=list)
    """What each commit did: `repository`, `revision`, `summary`, `files`, `deleted`."""
    hold_at_upload: int | None = None
    """This upload of a large file, counted from 1, never gets an answer; `held` is set when it comes."""
    held: threading.Event = field(default_factory=threading.Event)
    uploads: int = 0
    refuse_uploads: bool = False
    """Large files are answered with 403."""
    large: int = 1000
    """Files of at least this many bytes are large."""

    def repository(self, kind: str, name: str, revision: str = "main") -> Path:
        """The directory to fill for a repository: `hub.repository("models", "owner/name")`."""
        suffix = "" if revision == "main" else "@" + quote(revision, safe="")
        path = self.root / kind / (name + suffix)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that takes this server for the hub and caches below `home`."""
        inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k[:3] != "HF_"}
        sources = [str(REPOSITORY / part) for part in (".", "plugins", "export")]
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # A busy machine is no broken hub: a retry would be a line on stderr.
            "HF_HUB_ETAG_TIMEOUT": "120",
            "HF_HUB_DOWNLOAD_TIMEOUT": "120",
            "PYTHONPATH": os.pathsep.join(sources),
        }

    def run(self, *arguments: object, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments against this server: `hub.run("-m", "icclip", ..., home=tmp_path)`."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self.environment(home) | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def hub(tmp_path_factory):
    """An empty hub on loopback."""
    hub = Hub(tmp_path_factory.mktemp("hub"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


class _HubError(Exception):
    """What the hub answers with 404 and a code that the client turns into an exception."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_arguments):
        """Nothing: the requests are kept in `hub.requests`."""

    def do_GET(self):
        self._answer(b"")

    def do_HEAD(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self._body())

    def do_PUT(self):
        """A large file, by its hash."""
        self.hub.requests.append(f"PUT {self.path}")
        self.hub.uploads += 1
        oid = BLOB.fullmatch(urlsplit(self.path).path)[1]
        if self.hub.uploads == self.hub.hold_at_upload:
            self.hub.held.set()
            # Until the client is gone.
            while self.rfile.read(1 << 16):
                pass
            return
        content = self._body()
        if self.hub.refuse_uploads:
            self._send(403, b"", {})
            return
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.blobs[oid] = content
        self._send(200, b"{}", {})

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body):
        self.hub.requests.append(f"{self.command} {self.path}")
        path = urlsplit(self.path).path
        try:
            if self.command == "POST" and (answer := self._written(path, body)) is not None:
                self._send(*answer)
            elif match := API.fullmatch(path):
                self._send(200, json.dumps(self._api(match, body)).encode(), {})
            elif match := FILE.fullmatch(path):
                self._file(*match.groups())
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        except _HubError as error:
            self._send(404, b"{}", {"X-Error-Code": str(error)})

    def _written(self, path, body):
        """The answer (status, body, headers) to a request that writes; None: it is none."""
        write, lfs = WRITE.fullmatch(path), LFS.fullmatch(path)
        if path == "/api/validate-yaml":
            return 200, b'{"errors": [], "warnings": []}', {}
        if write or lfs or path == "/api/repos/create":
            return self._refusal() or self._change(write, lfs, body)
        return None

    def _refusal(self):
        """The answer to a client that may not write; None: it may."""
        sent = self.headers.get("Authorization", "")
        if not sent:
            return 401, b'{"error": "Unauthorized"}', {"X-Error-Message": "Invalid username or password."}
        if sent != f"Bearer {self.hub.token}":
            return 403, b'{"error": "Forbidden"}', {"X-Error-Message": "you have no right to write here"}
        return None

    def _change(self, write, lfs, body):
        if lfs:
            return self._batch(json.loads(body))
        if write:
            return getattr(self, f"_{write[2]}")(write[1], unquote(write[3]), body)
        return self._create(json.loads(body))

    def _create(self, wanted):
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        answer = json.dumps({"url": f"{self.hub.url}/{name}", "id": name, "name": name}).encode()
        if name in self.hub.private or (self.hub.root / "models" / name).exists():
            return 409, answer, {"X-Error-Message": "You already created this model repo"}
        self.hub.private[name] = bool(wanted.get("private"))
        self.hub.repository("models", name)
        return 200, answer, {}

    def _branch(self, name, branch, _body):
        target = self.hub.repository("models", name, branch)
        for file in self.hub.repository("models", name).rglob("*"):
            if file.is_file() and not any(target.iterdir()):
                shutil.copy(file, target)
        return 201, b"{}", {}

    def _preupload(self, _name, _revision, body):
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] >= self.hub.large else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for one in json.loads(body)["files"]
        ]
        return 200, json.dumps({"files": files}).encode(), {}

    def _batch(self, wanted):
        """Where each large file goes; one that is here already goes nowhere."""
        objects = []
        for one in wanted["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/blobs/{one['oid']}?signature=secret", "header": {}}}
            objects.append(one if one["oid"] in self.hub.blobs else {**one, "actions": upload})
        return 200, json.dumps({"transfer": "basic", "objects": objects}).encode(), {}

    def _commit(self, name, revision, body):
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        folder, done = self.hub.repository("models", name, revision), {"files": [], "deleted": []}
        for line in lines:
            value = line["value"]
            if line["key"] in {"file", "lfsFile"}:
                is_large = line["key"] == "lfsFile"
                content = self.hub.blobs[value["oid"]] if is_large else base64.b64decode(value["content"])
                (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / value["path"]).write_bytes(content)
                done["files"].append(value["path"])
            elif line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
                done["deleted"].append(value["path"])
        summary = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        self.hub.commits.append({"repository": name, "revision": revision, "summary": summary, **done})
        oid = _sha(folder)
        return (
            200,
            json.dumps(
                {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True}
            ).encode(),
            {},
        )

    def _api(self, match, body):
        kind, name, action, revision, path = match.groups()
        if action == "refs":
            return self._refs(kind, name)
        folder = self._folder(kind, name, unquote(revision or "main"))
        if action == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in {"true", "1"}
            return _tree(folder, unquote(path or ""), recursive=recursive)
        if action == "paths-info":
            return [_entry(folder, folder / p) for p in self._paths(body) if (folder / p).exists()]
        return {
            "_id": "0", "id": name, "modelId": name, "sha": _sha(folder), "private": self.hub.private.get(name, False), "gated": False,
            "disabled": False, "tags": [], "downloads": 0, "likes": 0, "createdAt": DATE, "lastModified": DATE,
            "siblings": [{"rfilename": e["path"]} for e in _tree(folder, "", recursive=True) if e["type"] == "file"],
        }  # fmt: skip

    def _paths(self, body):
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(body)["paths"]
        return parse_qs(body.decode())["paths"]

    def _refs(self, kind, name):
        refs = [unquote(f.name.partition("@")[2]) or "refs/heads/main" for f in self._folders(kind, name)]
        named = [{"name": ref.rpartition("/")[2], "ref": ref, "targetCommit": "0" * 40} for ref in refs]
        return {
            "branches": [r for r in named if "/heads/" in r["ref"]],
            "converts": [r for r in named if "/convert/" in r["ref"]],
            "tags": [],
        }

    def _folders(self, kind, name):
        owner, _, short = unquote(name).partition("/")
        parent = self.hub.root / kind / owner
        folders = [f for f in sorted(parent.glob("*")) if f.name.partition("@")[0] == short]
        if not folders:
            raise _HubError("RepoNotFound")
        return folders

    def _folder(self, kind, name, revision):
        for folder in self._folders(kind, name):
            if revision in {unquote(folder.name.partition("@")[2]) or "main", _sha(folder)}:
                return folder
        raise _HubError("RevisionNotFound")

    def _file(self, kind, name, revision, path):
        folder = self._folder(kind or "models", name, unquote(revision))
        file = folder / unquote(path)
        headers = {"X-Repo-Commit": _sha(folder), "Accept-Ranges": "bytes"}
        if not file.is_file():
            self._send(404, b"{}", headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        headers["ETag"] = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
        wanted = RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted and self.command == "GET":
            start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._send(206, content[start : end + 1], headers)
        else:
            self._send(200, content, headers)

    def _send(self, status, content, headers):
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha(folder):
    """A commit id that changes with the files' names and sizes."""
    listing = sorted((str(f.relative_to(folder)), f.stat().st_size) for f in folder.rglob("*") if f.is_file())
    return hashlib.sha1(repr((folder.name, listing)).encode(), usedforsecurity=False).hexdigest()


def _tree(folder, path, *, recursive):
    base = folder / path
    if not base.exists():
        raise _HubError("EntryNotFound")
    return [_entry(folder, item) for item in sorted(base.rglob("*") if recursive else base.glob("*"))]


def _entry(folder, path):
    oid = hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()
    size = path.stat().st_size if path.is_file() else 0
    kind = "file" if path.is_file() else "directory"
    return {"type": kind, "oid": oid, "size": size, "path": path.relative_to(folder).as_posix()}
