"""Nothing is fetched but https pictures of hosts that were allowed by name, at public addresses."""

import socket
from typing import Any

import pytest

from chiasm.serve.http import fetching
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.fetching import checked, fetch, public_address

ALLOWED = ("images.example.org",)
MOST = 2**20


@pytest.mark.parametrize(
    "address",
    [
        "http://images.example.org/a.png",
        "ftp://images.example.org/a.png",
        "file:///etc/passwd",
        "https://other.example.org/a.png",
        "https://images.example.org.evil.example/a.png",
        "https://images.example.org:8443/a.png",
        "https://images.example.org:x/a.png",
        "https://me:secret@images.example.org/a.png",
        "https://images.example.org@evil.example/a.png",
        "https://evil.example/?https://images.example.org/",
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://2130706433/a.png",
        "https://images.example.org/a b.png",
        "https://images.example.org/\r\nHost: evil",
        "https://[bad/a.png",
        "//images.example.org/a.png",
    ],
)
def test_other_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against every way around a list of names; no name is even resolved."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was resolved"))
    with pytest.raises(ServedError) as refused:
        fetch(address, ALLOWED, 1, MOST)
    assert refused.value.code == "url_not_allowed"
    assert checked("https://Images.example.org/a.png?x=1", ALLOWED) == ("images.example.org", "/a.png?x=1")


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "169.254.169.254",
    "::1",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "0.0.0.0",  # noqa: S104
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an allowed name that points into the owner's own network, alone or beside a public address."""

    def answer(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (one, 443)) for one in ("93.184.216.34", address)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    with pytest.raises(ServedError) as refused:
        fetch("https://images.example.org/a.png", ALLOWED, 1, MOST)
    assert refused.value.code == "url_not_allowed"


def test_redirects_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an allowed host that sends the server elsewhere, and one that sends it in circles."""
    asked: list[str] = []
    places = {"/a": (302, "/b"), "/b": (200, b"picture"), "/out": (302, "https://169.254.169.254/"), "/c": (302, "/c")}
    places["/gone"], places["/http"] = (404, None), (302, "http://images.example.org/b")

    def get(host: str, address: str, path: str, end: float, max_bytes: int) -> Any:
        asked.append(f"{host} {address} {path}")
        return places[path]

    monkeypatch.setattr(fetching, "public_address", lambda host: "93.184.216.34")
    monkeypatch.setattr(fetching, "_get", get)
    assert fetch("https://images.example.org/a", ALLOWED, 1, MOST) == b"picture"
    for path, code in (("out", "not_allowed"), ("http", "not_allowed"), ("c", "not_fetched"), ("gone", "not_fetched")):
        with pytest.raises(ServedError) as refused:
            fetch(f"https://images.example.org/{path}", ALLOWED, 1, MOST)
        assert refused.value.code == f"url_{code}"
    assert all(one.startswith("images.example.org 93.184.216.34 /") for one in asked)


def test_connection_goes_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a name that is resolved twice and changes its mind in between (DNS rebinding)."""
    tried: list[Any] = []

    def connect(address: Any, timeout: float) -> None:
        tried.append(address)
        raise OSError("no network in a test")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("93.184.216.34", 443))])
    monkeypatch.setattr(socket, "create_connection", connect)
    assert public_address("images.example.org") == "93.184.216.34"
    with pytest.raises(ServedError) as refused:
        fetch("https://images.example.org/a.png", ALLOWED, 1, MOST)
    assert refused.value.code == "url_not_fetched" and tried == [("93.184.216.34", 443)]
