"""The routes: what they answer, and what they refuse, with its field."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import struct
import time
import zlib

import numpy as np
import pytest
from serving.conftest import encoded
from support.images import photo

pytest.importorskip("fastapi")

from icclip.runtime import Encoder
from icclip.serving.batching import Batcher
from icclip.serving.problems import RequestProblem

TEXTS = ["a red square on a table", "Two BLUE circles!", "nothing"]


@pytest.fixture(scope="module")
def encoder(place):
    return Encoder.open(place.bundle)


def refused(answer, status, kind, field):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["field"]) == (kind, field), error
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in error["message"]
    return error["message"]


# The seed project's contract ----------------------------------------------------------------------


def test_rank_is_the_default_task(client, encoder, image):
    answer = client.post("/invocations", json={"image_b64": image, "texts": TEXTS, "top_k": 2})
    assert answer.status_code == 200, answer.text
    scores = encoder.rank(base64.b64decode(image), TEXTS)
    best = np.argsort(-scores)[:2]
    assert [one["text"] for one in answer.json()["top_k"]] == [TEXTS[i] for i in best]
    np.testing.assert_allclose([one["score"] for one in answer.json()["top_k"]], scores[best], rtol=1e-4)


def test_encoding(client, encoder, image):
    made = client.post("/invocations", json={"task": "encode_image", "image_b64": image}).json()
    np.testing.assert_allclose(made["image_embedding"], encoder.encode_images(base64.b64decode(image))[0], atol=1e-6)
    made = client.post("/invocations", json={"task": "encode_text", "texts": TEXTS}).json()
    np.testing.assert_allclose(made["text_embeddings"], encoder.encode_texts(TEXTS), atol=1e-5)


def test_another_content_type(client):
    answer = client.post("/invocations", content=b"a,b", headers={"Content-Type": "text/csv"})
    assert "Unsupported content type: 'text/csv'" in refused(answer, 415, "unsupported_content_type", None)


# OpenAI's interface -------------------------------------------------------------------------------


def test_embeddings_of_texts_and_images(client, encoder, image):
    given = ["a red square", f"data:image/png;base64,{image}", "nothing"]
    made = client.post("/v1/embeddings", json={"input": given, "model": "m"}).json()
    assert [one["index"] for one in made["data"]] == [0, 1, 2]
    vectors = [one["embedding"] for one in made["data"]]
    np.testing.assert_allclose(vectors[::2], encoder.encode_texts(given[::2]), atol=1e-5)
    np.testing.assert_allclose(vectors[1], encoder.encode_images(base64.b64decode(image))[0], atol=1e-6)
    assert made["usage"]["prompt_tokens"] == encoder.tokenization.tokens_in(given[::2])


def test_embeddings_in_base64(client, encoder):
    made = client.post("/v1/embeddings", json={"input": "a dog", "encoding_format": "base64"}).json()
    packed = np.frombuffer(base64.b64decode(made["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(packed, encoder.encode_texts("a dog")[0], atol=1e-6)


# Search -------------------------------------------------------------------------------------------


def test_search(client, encoder, place):
    files = sorted(place.images.iterdir())
    cosines = encoder.encode_images(files) @ encoder.encode_texts("a dog")[0]
    hits = client.post("/search", json={"text": "a dog", "k": 3}).json()["hits"]
    assert [hit["item"]["path"] for hit in hits] == [str(files[i]) for i in np.argsort(-cosines)[:3]]
    assert hits[0]["thumbnail"] is None
    assert 0 < hits[0]["score"] <= 1


def test_search_by_image_by_item_and_with_a_filter(client, place):
    content = base64.b64encode((place.images / "5.png").read_bytes()).decode()
    hit = client.post("/search", json={"image_b64": content, "k": 1, "thumbnails": True}).json()["hits"][0]
    assert hit["item"]["path"].endswith("5.png")
    assert hit["thumbnail"].startswith("data:image/jpeg;base64,")
    assert hit["score"] is None
    near = client.post("/search", json={"like": hit["row"], "k": 11}).json()["hits"]
    assert hit["row"] not in {one["row"] for one in near}
    assert len(near) == 11
    wide = client.post("/search", json={"text": "x", "filter": "width > 120"}).json()["hits"]
    assert {one["item"]["width"] for one in wide} == {130, 140, 150}


def test_search_without_an_index(serving):
    answer = serving(index=False).post("/search", json={"text": "a"})
    assert "start it with --index" in refused(answer, 404, "no_index", None)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "field"),
    [
        ("/invocations", {"texts": ["a"]}, 422, "invalid_request", "image_b64"),
        ("/invocations", {"task": "encode_text"}, 422, "invalid_request", "texts"),
        ("/invocations", {"task": "encode_text", "texts": []}, 422, "invalid_request", "texts"),
        ("/invocations", {"task": "encode_text", "texts": [1]}, 422, "invalid_request", "texts.0"),
        ("/invocations", {"task": "encode_text", "texts": ["a", "x" * 10_001]}, 413, "too_large", "texts.1"),
        ("/invocations", {"task": "encode_text", "texts": ["a"] * 257}, 413, "too_large", "texts"),
        ("/invocations", {"task": "dance"}, 422, "invalid_request", "task"),
        ("/invocations", {"task": "encode_text", "texts": ["a"], "top_k": "5"}, 422, "invalid_request", "top_k"),
        ("/invocations", {"texts": ["a"], "top_k": 0}, 422, "invalid_request", "top_k"),
        ("/invocations", {"texts": ["a"], "colour": 1}, 422, "invalid_request", "colour"),
        ("/invocations", {"task": "encode_image", "image_b64": "!"}, 422, "invalid_request", "image_b64"),
        ("/invocations", {"task": "encode_image", "image_b64": "aGFsbG8="}, 422, "invalid_request", "image_b64"),
        ("/invocations", {"task": "encode_image", "image_b64": "/etc/passwd"}, 422, "invalid_request", "image_b64"),
        ("/invocations", {"task": "encode_image", "image_b64": "http://127.0.0.1/x.png"}, 422, "invalid_request", "image_b64"),
        ("/invocations", [], 422, "invalid_request", None),
        ("/v1/embeddings", {"input": []}, 422, "invalid_request", "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, 422, "invalid_request", "dimensions"),
        ("/v1/embeddings", {"input": ["a", "data:image/png;base64,AAAA"]}, 422, "invalid_request", "input.1"),
        ("/search", {}, 422, "invalid_request", "text"),
        ("/search", {"text": "a", "k": 0}, 422, "invalid_request", "k"),
        ("/search", {"text": "a", "filter": "open('x')"}, 422, "invalid_request", "filter"),
        ("/search", {"text": "a", "minus": "a"}, 422, "invalid_request", "minus"),
        ("/search", {"like": 12}, 422, "invalid_request", "like"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_used_is_named(client, path, body, status, *, kind, field):
    refused(client.post(path, json=body), status, kind, field)


def test_bodies_that_are_no_json(client):
    headers = {"Content-Type": "application/json"}
    for content in (b"", b"{", b"\xff", b"[" * 100_000, b'{"texts": ["\\ud800"], "task": "encode_text"}'):
        answer = client.post("/invocations", content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["error"]["type"] in ("invalid_request", "bad_request")


def test_unknown_paths_and_methods(client):
    refused(client.get("/nowhere"), 404, "not_found", None)
    refused(client.get("/search"), 405, "method_not_allowed", None)


def test_a_body_that_is_too_large(serving):
    small = serving(max_body="1kB")
    refused(small.post("/search", json={"text": "x" * 2000}), 413, "too_large", None)

    def chunks():
        for _ in range(5):
            yield b"x" * 500

    refused(
        small.post("/search", content=chunks(), headers={"Content-Type": "application/json"}), 413, "too_large", None
    )


def bomb(width, height):
    """A PNG whose header promises more pixels than its content has."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_an_image_with_too_many_pixels_is_never_decoded(client):
    content = base64.b64encode(bomb(30_000, 30_000)).decode()
    answer = client.post("/invocations", json={"task": "encode_image", "image_b64": content})
    assert answer.status_code in (413, 422)
    assert answer.json()["error"]["field"] == "image_b64"


def test_a_truncated_image_does_not_spoil_its_batch(client, image):
    whole = base64.b64decode(encoded(photo(300, 300), "JPEG"))
    cut = base64.b64encode(whole[: len(whole) // 2]).decode()
    answer = client.post(
        "/v1/embeddings", json={"input": [f"data:image/png;base64,{image}", f"data:image/jpeg;base64,{cut}"]}
    )
    message = refused(answer, 422, "invalid_request", "input.1")
    assert message.startswith("input.1: the image is corrupt or truncated")


def test_no_file_and_no_address_is_opened(client, place, monkeypatch):
    import socket

    def never(*_, **__):
        raise AssertionError("opened")

    client.post("/search", json={"text": "warm"})
    monkeypatch.setattr(socket, "create_connection", never)
    path = str(place.images / "0.png")
    for value in (path, f"file://{path}", "http://127.0.0.1:1/a.png"):
        assert client.post("/search", json={"image_b64": value}).status_code == 422
        # As an input of /v1/embeddings it is a text like any other.
        assert client.post("/v1/embeddings", json={"input": value}).status_code == 200


# Keys, health, metrics, log -----------------------------------------------------------------------


def test_a_key(serving):
    locked = serving(key="secret")
    refused(locked.post("/search", json={"text": "a"}), 401, "unauthorized", None)
    refused(locked.get("/metrics", headers={"X-API-Key": "wrong"}), 401, "unauthorized", None)
    for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
        assert locked.post("/search", json={"text": "a"}, headers=headers).status_code == 200
    for path in ("/live", "/", "/page.js", "/page.css"):
        assert locked.get(path).status_code == 200


def ready(client):
    for _ in range(200):
        answer = client.get("/ping")
        if answer.status_code == 200:
            return answer
        time.sleep(0.05)
    raise AssertionError(answer.text)


def test_ready_after_the_golden_inputs_matched(client):
    assert ready(client).json() == {"status": "ready"}
    assert client.get("/live").status_code == 200


def test_golden_inputs_may_be_larger_than_requests(serving, image):
    client = serving(max_characters=10, max_pixels=100)
    assert ready(client).status_code == 200
    assert client.post("/invocations", json={"task": "encode_text", "texts": ["x" * 11]}).status_code == 413
    assert client.post("/invocations", json={"task": "encode_image", "image_b64": image}).status_code == 413


def test_never_ready_where_they_do_not(serving, monkeypatch):
    from icclip.serving import service

    golden = service.read_golden

    def another(bundle):
        found = golden(bundle)
        return type(found)(found.images, found.texts, found.image_embeddings, np.roll(found.text_embeddings, 1, axis=1))

    monkeypatch.setattr(service, "read_golden", another)
    wrong = serving()
    for _ in range(100):
        answer = wrong.get("/ping")
        if "golden texts" in answer.text:
            break
        time.sleep(0.05)
    assert "the golden texts are encoded differently here" in refused(answer, 503, "not_ready", None)
    assert wrong.get("/live").status_code == 200


def test_metrics(client):
    client.post("/search", json={"text": "a dog"})
    client.get("/wp-admin")
    text = client.get("/metrics").text
    assert 'icclip_requests_total{path="/search",status="200"}' in text
    assert 'path="other"' in text
    assert "wp-admin" not in text
    assert 'icclip_batch_size_count{tower="text"}' in text
    assert 'icclip_inputs_waiting{tower="text"} 0.0' in text


def test_the_log_is_json_without_what_was_sent(client, caplog):
    logging.getLogger("icclip.serving").propagate = True
    with caplog.at_level(logging.INFO, "icclip.serving"):
        client.post("/search", json={"text": "a secret"}, headers={"X-Request-Id": "mine-1"})
    line = json.loads(caplog.records[-1].message)
    assert (line["request_id"], line["path"], line["status"]) == ("mine-1", "/search", 200)
    assert "secret" not in caplog.text


def test_a_request_id_that_could_steer_a_log_is_replaced(client):
    assert client.get("/live", headers={"X-Request-Id": 'a"\x1b[2J'}).headers["x-request-id"].isalnum()


def test_an_error_of_ours_is_500_and_says_nothing(serving, monkeypatch, caplog):
    broken = serving()
    monkeypatch.setattr(type(broken.service), "_encode_texts", lambda *_: 1 / 0)
    logging.getLogger("icclip.serving").propagate = True
    answer = broken.post("/search", json={"text": "a"})
    assert refused(answer, 500, "internal", None) == "the service failed; its log says why"
    assert "ZeroDivisionError" in caplog.text


def test_the_schema_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/invocations", "/ping", "/live", "/v1/embeddings", "/search", "/info", "/metrics"}


def test_about(client, encoder):
    about = client.get("/info").json()
    assert about["fingerprint"] == encoder.fingerprint
    assert about["index"]["items"] == 12


def test_the_page_asks_nobody_else(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/page.css", "/page.js"):
        text = client.get(path).text
        assert "http://" not in text
        assert "https://" not in text


# Batches ------------------------------------------------------------------------------------------


def run(work):
    return asyncio.run(work)


def test_requests_share_a_batch_and_keep_their_answers():
    sizes = []

    def work(inputs):
        time.sleep(0.05)
        return [one * 10 for one in inputs]

    async def many():
        batcher = Batcher(work, 8, 0.0, 100, sizes.append)
        answers = await asyncio.gather(*(batcher.run([i, i + 100]) for i in range(9)))
        await batcher.close()
        return answers

    assert run(many()) == [[i * 10, (i + 100) * 10] for i in range(9)]
    assert max(sizes) == 8
    assert sum(sizes) == 18
    assert len(sizes) <= 4


def test_a_first_input_may_wait_for_others():
    sizes = []

    async def two():
        batcher = Batcher(list, 8, 1.0, 100, sizes.append)
        first = asyncio.create_task(batcher.run([1]))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, batcher.run([2]))
        await batcher.close()

    run(two())
    assert sizes == [2]


def test_a_full_queue_is_429_with_a_time():
    def slow(inputs):
        time.sleep(0.1)
        return list(inputs)

    async def full():
        batcher = Batcher(slow, 1, 0.0, 3)
        waiting = [asyncio.create_task(batcher.run([0]))]
        await asyncio.sleep(0.02)
        waiting += [asyncio.create_task(batcher.run([i])) for i in range(1, 4)]
        await asyncio.sleep(0.02)
        with pytest.raises(RequestProblem) as caught:
            await batcher.run([9, 9])
        answers = await asyncio.gather(*waiting)
        await batcher.close()
        return caught.value, answers

    problem, answers = run(full())
    assert problem.status == 429
    assert int(problem.headers["Retry-After"]) >= 1
    assert answers == [[0], [1], [2], [3]]


def test_what_was_given_up_is_not_encoded():
    seen = []

    def slow(inputs):
        time.sleep(0.05)
        seen.extend(inputs)
        return list(inputs)

    async def cancelled():
        batcher = Batcher(slow, 1, 0.0, 10)
        first = asyncio.create_task(batcher.run([1]))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(batcher.run([2]))
        await asyncio.sleep(0.01)
        second.cancel()
        await first
        assert await batcher.run([3]) == [3]
        await batcher.close()

    run(cancelled())
    assert seen == [1, 3]


def test_a_failure_reaches_everybody_in_the_batch():
    async def failing():
        batcher = Batcher(lambda _: 1 / 0, 8, 0.0, 10)
        outcomes = await asyncio.gather(*(batcher.run([i]) for i in range(3)), return_exceptions=True)
        await batcher.close()
        return outcomes

    assert all(isinstance(one, ZeroDivisionError) for one in run(failing()))


def test_a_timeout_is_504(serving, monkeypatch):
    slow = serving(timeout=0.05)
    monkeypatch.setattr(type(slow.service), "_encode_texts", lambda _, texts: time.sleep(0.3) or [None] * len(texts))
    refused(slow.post("/search", json={"text": "a"}), 504, "timeout", None)


# Opening ------------------------------------------------------------------------------------------


def test_an_index_of_another_encoder_is_refused(bundles, place, icclip):
    outcome = icclip("serve", bundles["siglip"], "--index", place.index)
    assert outcome.code == 2
    assert "was made by another encoder" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-body", "much"), "--max-body is 'much': write it as 16MB"),
        (("--port", "99999"), "it must be at least 0 and at most 65535"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(place, icclip, arguments, message):
    outcome = icclip("serve", place.bundle, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
