"""Images by URL: from a server of our own, once its address counts as public."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.flickr import jpeg
from support.formats import img2dataset

from icclip.config import DatasetConfig
from icclip.data import downloads
from icclip.data.downloads import fetch, is_public
from icclip.data.loading import dataset_config
from icclip.data.split import SplitImages
from icclip.errors import DataError
from icclip.plugins.registry import Registry

REGISTRY = Registry(load_plugins=frozenset())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Answers with images; counts what it was asked. `/flaky` fails once, `/private` leads to another address."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            failing = (
                self.path == "/none" or (self.path == "/flaky" and asked.count("/flaky") < 2) or self.path == "/down"
            )
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 500 if failing else 200)
            self.end_headers()
            shard = tmp_path / "shards" / self.path[1:]
            self.wfile.write(b"" if failing else shard.read_bytes() if shard.is_file() else jpeg(40))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as it:
        threading.Thread(target=it.serve_forever, daemon=True).start()
        monkeypatch.setattr(downloads, "PAUSE", 0)
        monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "cache"))
        it.asked, it.url = asked, f"http://127.0.0.1:{it.server_port}"
        yield it
        it.shutdown()


@pytest.fixture
def reachable(monkeypatch):
    """127.0.0.1 alone counts as public."""
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_addresses_that_are(address):
    assert is_public(address)


def test_a_private_address_is_never_asked(server):
    for url in (f"{server.url}/a.jpg", f"http://localhost:{server.server_port}/a.jpg"):
        with pytest.raises(DataError, match="which is no public address"):
            fetch(url)
    assert server.asked == []


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize("target", ["http://10.0.0.1/a", "file:///etc/passwd", "ftp://10.0.0.1/a"])
def test_a_redirect_leads_nowhere_else(server, target):
    with pytest.raises(DataError):
        fetch(f"{server.url}/to/{target}")


@pytest.mark.usefixtures("reachable")
def test_it_is_fetched_once_and_an_error_that_passes_is_tried_again(server):
    path = fetch(f"{server.url}/flaky")
    assert path.read_bytes() == jpeg(40)
    assert fetch(f"{server.url}/flaky") == path
    assert fetch(f"{server.url}/to//b.jpg").read_bytes() == jpeg(40)
    assert server.asked == ["/flaky", "/flaky", "/to//b.jpg", "/b.jpg"]


@pytest.mark.usefixtures("reachable")
def test_errors_that_stay(server, monkeypatch):
    with pytest.raises(DataError, match=r"/down: the server answers 500 .* \(tried 3 times\)"):
        fetch(f"{server.url}/down")
    with pytest.raises(DataError, match=r"/none: the server answers 404 Not Found$"):
        fetch(f"{server.url}/none")
    with pytest.raises(DataError, match="more than 0 MB"):
        fetch(f"{server.url}/a", largest=10)
    with pytest.raises(DataError, match="only http and https are fetched"):
        fetch("ftp://example.org/a")
    with pytest.raises(DataError):
        fetch("http://[/a")
    assert server.asked == ["/down"] * 3 + ["/none", "/a"]


def manifest(folder, urls):
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps({"url": url, "caption": f"caption {i}"}) for i, url in enumerate(urls)))
    return path


def load(path, **options):
    return REGISTRY.dataset("jsonl").load(DatasetConfig(name="jsonl", path=str(path), **options))


@pytest.mark.usefixtures("reachable")
def test_a_manifest_of_urls(server, tmp_path, capsys):
    path = manifest(tmp_path, [f"{server.url}/{i}.jpg" for i in range(3)])
    with pytest.raises(DataError, match=r"m.jsonl:1: http.*/0.jpg: pass --download to fetch images from the network"):
        load(path)
    assert server.asked == []
    split = load(path, download=True)["train"]
    assert [image.size for image in SplitImages(split)] == [(12, 8)] * 3
    path = manifest(tmp_path, [f"{server.url}/0.jpg", f"{server.url}/none"])
    with pytest.raises(DataError, match=r"1 of 2 images could not be fetched; the first: .*m.jsonl:2: .*404"):
        load(path, download=True)
    assert load(path, download=True, on_bad_image="skip")["train"]["captions"][:] == [["caption 0"]]
    assert "skipped: 1 of 2 images could not be fetched" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b.jpg", "s3://a/b.jpg", "hf://datasets/a/b.jpg"])
def test_other_schemes_are_refused_with_or_without_download(tmp_path, url):
    for download in (False, True):
        with pytest.raises(DataError, match=r"m.jsonl:1: .*only http and https are fetched"):
            load(manifest(tmp_path, [url]), download=download)


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize("streaming", [False, True])
def test_shards_by_url(server, tmp_path, streaming):
    img2dataset(tmp_path / "shards")
    config = dataset_config(REGISTRY, f"{server.url}/train-{{00000..00000}}.tar", streaming=streaming)
    assert config.name == "webdataset"
    with pytest.raises(DataError, match="pass --download to fetch shards from the network"):
        REGISTRY.dataset("webdataset").load(config)
    allowed = DatasetConfig.from_mapping({**config.to_mapping(), "download": True})
    assert len(list(REGISTRY.dataset("webdataset").load(allowed)["train"])) == 6
