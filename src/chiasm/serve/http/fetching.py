"""Fetching of images by URL, only from hosts that the server's settings allow.

https on port 443 alone. The name is resolved once, every address must be public, and the connection goes to the very
address that was checked, so that a name which changes its mind (DNS rebinding) wins nothing. Redirects are followed on
the same host only. Size and time are bounded.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from chiasm.serve.http.errors import ServedError

MAX_REDIRECTS = 3
PIECE = 1 << 16
PORT = 443


def fetch(address: str, allowed: tuple[str, ...], timeout_s: float, max_bytes: int) -> bytes:
    """The bytes at an address.

    Raises:
        ServedError: "url_not_allowed", or "url_not_fetched".
    """
    end = time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        host, path = checked(address, allowed)
        status, found = _get(host, public_address(host), path, end, max_bytes)
        if status == 200 and isinstance(found, bytes):
            return found
        if status not in (301, 302, 303, 307, 308) or not isinstance(found, str):
            raise ServedError("url_not_fetched")
        address = urljoin(address, found)
        if urlsplit(address).hostname != host:
            raise ServedError("url_not_allowed")
    raise ServedError("url_not_fetched")


def checked(address: str, allowed: tuple[str, ...]) -> tuple[str, str]:
    """Host and path of an address that may be fetched.

    Raises:
        ServedError: another scheme, port or host than allowed, or a user name in it.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ServedError("url_not_allowed") from None
    is_plain = parts.scheme == "https" and port in (None, PORT) and "@" not in parts.netloc
    if not is_plain or host is None or host not in {one.lower() for one in allowed} or not address.isascii():
        raise ServedError("url_not_allowed")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(ord(one) <= 32 or ord(one) == 127 for one in path):
        raise ServedError("url_not_allowed")
    return host, path


def public_address(host: str) -> str:
    """The first address of a host, all of whose addresses are public.

    Raises:
        ServedError: one is not (a private network, this machine, link-local metadata), or the name is unknown.
    """
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ServedError("url_not_fetched") from None
    addresses = [str(one[4][0]) for one in found]
    for one in addresses:
        address = ipaddress.ip_address(one.partition("%")[0])
        inner = getattr(address, "ipv4_mapped", None) or address
        if not inner.is_global or inner.is_multicast:
            raise ServedError("url_not_allowed")
    if not addresses:
        raise ServedError("url_not_fetched")
    return addresses[0]


class _Pinned(http.client.HTTPSConnection):
    """A connection to one address, whose certificate must be that of the host."""

    def __init__(self, host: str, address: str, timeout_s: float) -> None:
        super().__init__(host, PORT, timeout=timeout_s, context=ssl.create_default_context())
        self.address = address

    def connect(self) -> None:
        raw = socket.create_connection((self.address, PORT), self.timeout)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]  # set by HTTPSConnection
        self.sock = context.wrap_socket(raw, server_hostname=self.host)


def _get(host: str, address: str, path: str, end: float, max_bytes: int) -> tuple[int, bytes | str | None]:
    """Status, and the body of a 200 or the place that a redirect names."""
    connection = _Pinned(host, address, _left(end))
    try:
        connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != 200:
            return answer.status, answer.getheader("Location")
        content = bytearray()
        while piece := answer.read(PIECE):
            content += piece
            if len(content) > max_bytes or _left(end) <= 0:
                raise ServedError("url_not_fetched")
            if connection.sock is not None:
                connection.sock.settimeout(_left(end))
        return 200, bytes(content)
    except (OSError, http.client.HTTPException, ValueError):
        raise ServedError("url_not_fetched") from None
    finally:
        connection.close()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise ServedError("url_not_fetched")
    return left
