"""Over HTTP the answers are the engine's, to the last bit; what is wrong gets a fixed code and nothing else."""

import base64
import contextlib
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from doors import Door, data_uri, running

from chiasm.serve.engine import Model
from chiasm.serve.http.errors import CODES
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index

QUESTION = "how many circles are there?"
LEAK = re.compile(rb"0x[0-9a-f]{6,}|Traceback|/home/|/tmp/|/usr/|\.py\b")


def test_answers_are_the_engines(door: Door, model: Model, files: list[bytes]) -> None:
    """Guards against a second preprocessing or rounding on the way through JSON."""
    images = [data_uri(content) for content in files]
    asked = door("/v1/ask", {"image": images, "question": QUESTION, "heat_map": True})
    assert asked.status == 200, asked.content
    for served, expected in zip(asked.json["answers"], model.ask(files, QUESTION, heat_map=True), strict=True):
        assert served == {"answer": expected.answer, **expected.as_dict()}
        assert sum(map(sum, served["heat_map"]["grid"])) == pytest.approx(1)
    captions = door("/v1/caption", {"image": images, "language": "zh"}).json["captions"]
    for served, one in zip(captions, model.caption(files, "zh"), strict=True):
        assert (served["caption"], served["confidence"], served["language"]) == (one.answer, one.confidence, "zh")
    labels = ["red circle", "蓝色方形", "green triangle"]
    classes = door("/v1/classify", {"image": images[0], "labels": labels}).json["classes"]
    (expected,) = model.classify(files[:1], labels)
    assert classes == [{"label": expected.answer, **expected.as_dict()}]
    texts = ["a red circle", "a blue square"]
    matches = door("/v1/match", {"image": images[0], "text": texts}).json["matches"]
    assert matches == [one.as_dict() for one in model.match(files[0], texts)]


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_the_engines(door: Door, model: Model, files: list[bytes], encoding: str) -> None:
    """Guards against inputs that come back in another order, and numbers that were rounded to be written."""
    part = {"type": "image_url", "image_url": {"url": data_uri(files[1])}}
    given = ["a red circle", data_uri(files[0]), {"type": "text", "text": "有几个圆形？"}, part]
    said = door("/v1/embeddings", {"input": given, "encoding_format": encoding, "model": "demo"}).json
    rows = [one["embedding"] for one in said["data"]]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    texts, images = model.encode_text(["a red circle", "有几个圆形？"]), model.encode_image(files[:2])
    expected = np.stack([texts[0], images[0], texts[1], images[1]])
    assert np.array_equal(np.array(rows, dtype=np.float32), expected)
    assert [one["index"] for one in said["data"]] == [0, 1, 2, 3] and said["usage"]["prompt_tokens"] > 0


def test_search_and_its_pictures(door: Door, index: Index, files: list[bytes]) -> None:
    """Guards against hits of another picture, and against sending an indexed file as it is."""
    hits = door("/v1/search", {"image": data_uri(files[2]), "count": 3}).json["hits"]
    expected = index.search(image=files[2], count=3)
    assert [(one["id"], one["similarity"]) for one in hits] == [(one.id, one.similarity) for one in expected]
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-5) and "path" not in hits[0]
    thumbnail = door(hits[0]["picture"])
    assert thumbnail.status == 200 and thumbnail.content[:2] == b"\xff\xd8"
    assert thumbnail.headers["x-content-type-options"] == "nosniff"
    both = door("/v1/search", {"text": "a red circle", "image": data_uri(files[2])}).json["hits"]
    assert [one["id"] for one in both] == [one.id for one in index.search(text="a red circle", image=files[2])]
    assert door("/v1/search", {"text": "a", "where": {"no such": 1}}).status in (200, 422)
    assert door("/v1/search", {"text": " "}).code == "no_query"
    for name in ("none", "..%2f..%2fetc%2fpasswd", "%00"):
        assert door(f"/v1/pictures/{name}").status == 404


BAD_PICTURES: list[tuple[str, str]] = [
    ("", "invalid_request"),
    ("not base64!", "not_base64"),
    ("data:text/html;base64,PGI+", "not_base64"),
    ("data:image/png,raw", "not_base64"),
    (data_uri(b""), "image_empty_file"),
    (data_uri(b"<svg/>"), "image_not_an_image"),
    (data_uri(b"GIF89a"), "image_"),
    ("http://169.254.169.254/latest/meta-data", "url_not_allowed"),
    ("https://example.org/a.png", "url_not_allowed"),
    ("file:///etc/passwd", "url_not_allowed"),
]


@pytest.mark.parametrize(("image", "code"), BAD_PICTURES)
def test_bad_pictures_have_codes(door: Door, image: str, code: str) -> None:
    """Guards against a decoder's own words, with paths and addresses, in an answer; and against fetching addresses."""
    said = door("/v1/ask", {"image": image, "question": QUESTION})
    assert said.status == 422 and said.code.startswith(code) and said.code in CODES
    assert said.json["error"]["message"] == CODES[said.code][1] and not LEAK.search(said.content)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/ask", b"{", "not_json"),
        ("/v1/ask", b"\xff\xfe", "not_json"),
        ("/v1/ask", b"[]", "invalid_request"),
        ("/v1/ask", {"image": "AA==", "question": " "}, "invalid_request"),
        ("/v1/ask", {"image": "AA==", "question": "a\ud800"}, "not_json"),
        ("/v1/ask", b'{"image": "AA==", "question": "' + b"," * 250_001 + b'"}', "too_many_items"),
        ("/v1/ask", b'{"image":"' + "😀".encode() + b"a" * 2**19 + b'","question":"a"}', "invalid_request"),
        ("/v1/ask", b'{"image":"\\ud83d\\ude00' + b"a" * 2**19 + b'","question":"a"}', "invalid_request"),
        ("/v1/search", b'{"where":' * 10_000 + b"1" + b"}" * 10_000, "not_json"),
        ("/v1/ask", {"image": "AA==", "question": "a", "heatmap": True}, "invalid_request"),
        ("/v1/ask", {"image": ["AA==", "AA=="], "question": ["a"] * 3}, "invalid_request"),
        ("/v1/ask", {"image": "AA==", "question": ["a"] * 33}, "too_many_items"),
        ("/v1/caption", {"image": "AA==", "language": "de"}, "language_unknown"),
        ("/v1/classify", {"image": "AA==", "labels": ["a", "a"]}, "labels"),
        ("/v1/classify", {"image": "AA==", "labels": ["a", "b"], "prompts": ["x"]}, "labels"),
        ("/v1/embeddings", {"input": "a", "model": "other"}, "model_not_found"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/embeddings", {"input": [[1, 2, 3]]}, "invalid_request"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}, "no_picture"),
        ("/v1/search", {"text": "a", "count": 0}, "invalid_request"),
        ("/v1/search", {"text": "a", "count": True}, "invalid_request"),
        ("/v1/nothing", {}, "not_found"),
        ("/v1/models", {}, "method_not_allowed"),
    ],
)
def test_wrong_requests_have_codes(door: Door, path: str, body: Any, code: str) -> None:
    """Guards against a validator that repeats what was sent, and codes that clients cannot rely on."""
    said = door(path, body)
    assert said.code == code and said.status == CODES[code][0]
    assert not LEAK.search(said.content) and b"heatmap" not in said.content


def test_bodies_have_a_limit(door: Door) -> None:
    """Guards against a body that is read whole before it is refused, with or without a stated length."""
    place = urlsplit(door.address)
    head = f"POST /v1/ask HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as raw:
        raw.sendall((head + f"Content-Length: {2**20 + 1}\r\n\r\n").encode())
        assert b" 413 " in raw.recv(4096)[:20]
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as raw:
        raw.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with contextlib.suppress(OSError):  # the server hangs up in the middle
            for _ in range(64):
                raw.sendall(piece)
        assert b" 413 " in raw.recv(4096)[:20]
    assert door("/v1/ask", b"{}", headers={"Content-Encoding": "gzip"}).code == "unsupported_media"
    assert door("/v1/ask", b"{}", headers={"Content-Type": "text/plain"}).code == "unsupported_media"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "host_not_allowed"),
        ({"Host": "127.0.0.1.evil.example"}, "host_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Origin": "http://evil.example"}, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, "origin_not_allowed"),
    ],
)
def test_other_sites_are_refused(door: Door, headers: dict[str, str], code: str) -> None:
    """Guards against a web page elsewhere that drives a server on this machine."""
    for path, body in (("/v1/models", None), ("/v1/ask", {})):
        assert door(path, body, headers=headers).code == code


FORGED: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "https://127.0.0.1"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "file://"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example:80"},
    {"Host": "127.0.0.1@evil.example"},
    {"Host": ""},
    {"Host": "[::1].evil.example"},
]
"""What a browser sends for a page of another site, or for a name that was pointed at this machine."""


@pytest.mark.parametrize("headers", FORGED, ids=str)
def test_no_route_can_be_driven_from_elsewhere(door: Door, headers: dict[str, str]) -> None:
    """Guards against one route that forgot: a plain form of another site needs no permission to be sent."""
    paths = [path for path, said in door("/openapi.json").json["paths"].items() if "post" in said]
    assert len(paths) == 8
    for path in paths:
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            said = door(path, {}, headers={"Content-Type": kind, **headers})
            assert said.status == 403 and said.code in ("origin_not_allowed", "host_not_allowed"), (path, kind)
            assert not [name for name in said.headers if name.lower().startswith("access-control")]


def test_an_origin_that_ends_like_the_host_is_another(door: Door) -> None:
    """Guards against a comparison by the end: http://evil127.0.0.1:PORT ends in 127.0.0.1:PORT."""
    host = door.address.removeprefix("http://")
    for origin in (f"http://evil{host}", f"http://evil.example/{host}", f"http://user@{host}"):
        assert door("/v1/ask", {}, headers={"Origin": origin}).code == "origin_not_allowed", origin
    assert door("/v1/ask", {}, headers={"Origin": door.address}).code != "origin_not_allowed"


def test_no_preflight_is_granted(door: Door) -> None:
    """Guards against a permission for other sites that came with a library."""
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/v1/ask", "/v1/search", "/v1/models", "/"):
        for headers in (asks, {**asks, "Origin": door.address}):
            said = door(path, method="OPTIONS", headers=headers)
            assert said.status in (403, 405)
            assert not [name for name in said.headers if name.lower().startswith("access-control")]


def test_server_says_how_it_is(door: Door) -> None:
    """Guards against probes that cannot tell alive from ready, and counts that count nothing."""
    assert door("/healthz").json == {"status": "alive"} and door("/readyz").status == 200
    door("/v1/ask", b"{")
    page = door("/metrics").content.decode()
    assert 'chiasm_requests_total{route="/v1/ask",status="400"}' in page
    assert 'chiasm_execution_info{part="image",format="fp32",why="' in page
    for line in page.splitlines():
        assert line.startswith("#") or re.fullmatch(r'chiasm_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+', line), (
            line
        )
    (told,) = door("/v1/models").json["data"]
    assert told["id"] == "demo" and told["can"]["search"] and told["index_size"] == 6
    described = door("/openapi.json").json
    assert {"/v1/ask", "/v1/chat/completions", "/v1/embeddings", "/v1/search"} <= set(described["paths"])
    assert "http://" not in json.dumps(described).replace("http://json-schema.org", "")


def test_a_token_guards_every_route_but_the_probes(model: Model) -> None:
    """Guards against a route that was added and forgotten, and a token that is compared by its beginning."""
    token = "a-token-of-many-characters"  # noqa: S105
    with running(Service(model, "demo", ServerSettings(token=token))) as door:
        paths = list(door("/openapi.json", headers={"Authorization": f"Bearer {token}"}).json["paths"])
        for path in [*paths, "/", "/page.js", "/openapi.json", "/nothing"]:
            for method in ("GET", "POST"):
                expected = 200 if path in ("/healthz", "/readyz") and method == "GET" else 401
                got = door(path.replace("{id}", "a"), b"{}" if method == "POST" else None, method)
                assert got.status == expected or (path in ("/healthz", "/readyz") and method == "POST"), (path, method)
        password = base64.b64encode(f"me:{token}".encode()).decode()
        good = [f"Bearer {token}", f"bearer {token}", f"Basic {password}"]
        bad = ["", token, "Bearer", f"Bearer {token[:-1]}", f"Bearer {token}x", f"Basic {token}", "Basic !!"]
        for value in good:
            assert door("/v1/models", headers={"Authorization": value}).status == 200, value
        for value in bad:
            assert door("/v1/models", headers={"Authorization": value}).status == 401, value
        assert door(f"/v1/models?token={token}").status == 401
