"""Settings of a server, and their checks before it starts."""

import ipaddress
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.data.image import MAX_PIXELS

LEAST_TOKEN = 16
"""Characters of the shortest token that is accepted."""
TOKEN_VARIABLE = "CHIASM_TOKEN"  # noqa: S105  the name of a variable
POSITIVE = (
    "max_body_bytes",
    "max_held_bytes",
    "max_connections",
    "max_items",
    "max_rows",
    "timeout_s",
    "decode_s",
    "max_pixels",
    "drain_s",
    "max_new_tokens",
    "max_messages",
    "max_chat_images",
)
"""Settings that must be above 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits and doors of one server."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    """What clients must send; "" asks nobody, and is allowed on this machine's own address alone."""
    allow_domains: tuple[str, ...] = ()
    """Hosts that images may be fetched from, by https; none fetches nothing."""
    max_body_bytes: int = 32 * 2**20
    """Largest body of one request."""
    max_held_bytes: int = 48 * 2**20
    """Most bytes of all bodies that are held at once; beyond it the largest unfinished one is refused."""
    max_connections: int = 512
    """Most connections; beyond it the one that has waited longest for its client is closed."""
    max_items: int = 32
    """Most images or texts in one request."""
    max_rows: int = 32
    """Most rows that the model computes at once."""
    queue_rows: int = 64
    """Most rows admitted and not yet answered."""
    timeout_s: float = 30.0
    """Longest time from a request's admission to its answer, for its head to arrive, and for its body."""
    decode_s: float = 5.0
    """Longest time that decoding one image may take; it answers 422 then, and its process is replaced."""
    max_pixels: int = 25_000_000
    """Width times height of the largest image; decoding one takes up to 8 bytes a pixel, in a child process."""
    max_new_tokens: int = 512
    """Longest reply of a conversation, in tokens; a request that asks for more gets as many."""
    max_messages: int = 100
    """Most messages of a conversation."""
    max_chat_images: int = 8
    """Most images of a conversation."""
    drain_s: float = 30.0
    """Longest time for open requests to end when the server is stopped."""

    def check(self) -> None:
        """Refuse what would open the server to others by mistake.

        Raises:
            InputError: a host that others reach without a token, a weak token, a limit out of range.
        """
        if not is_loopback(self.host) and not self.token:
            raise InputError(
                f"--host {self.host} without a token",
                "a token for every address but this machine's own (127.0.0.1, ::1, localhost)",
                f"give --token-file FILE, or set {TOKEN_VARIABLE}",
            )
        if self.token and (len(self.token) < LEAST_TOKEN or not self.token.isascii() or not self.token.isprintable()):
            raise InputError(
                f"a token of {len(self.token)} characters",
                f"{LEAST_TOKEN} or more printable ASCII characters",
                "python -c 'import secrets; print(secrets.token_urlsafe())' > FILE; chmod 600 FILE",
            )
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}", "a number above 0", f"change {name}")
        if self.max_held_bytes < self.max_body_bytes:
            raise InputError(
                f"max_held_bytes is {self.max_held_bytes}",
                f"{self.max_body_bytes} or more, the largest body",
                "raise it, or lower max_body_bytes",
            )
        if self.max_pixels > MAX_PIXELS:
            raise InputError(f"max_pixels is {self.max_pixels}", f"at most {MAX_PIXELS}", "lower --max-pixels")
        if self.queue_rows < self.max_items:
            raise InputError(
                f"a queue of {self.queue_rows} rows", f"{self.max_items} or more, one request's most", "raise it"
            )
        for domain in self.allow_domains:
            if not domain or any(one in domain for one in "/:*@ "):
                raise InputError(f"--allow-domain {domain}", "a bare name such as images.example.org", "leave the rest")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(file: Path | None) -> str:
    """The token out of a file that nobody else may read, or out of the environment; "" where there is none.

    Raises:
        InputError: the file is absent, empty, or open to others; the variable is set and empty.
    """
    if file is None:
        return _some(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE) if TOKEN_VARIABLE in os.environ else ""
    try:
        mode, content = file.stat().st_mode, file.read_text(encoding="utf-8")
    except OSError:
        raise InputError(f"{file} cannot be read", "a file with a token", "check the path") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"{file} may be read by others", "mode 0600", f"chmod 600 {file}")
    return _some(content, str(file))


def _some(content: str, where: str) -> str:
    """A token without the space around it; an empty one would open the server to everybody."""
    token = content.strip()
    if not token:
        raise InputError(
            f"{where} holds no token", f"{LEAST_TOKEN} or more printable ASCII characters", "write one, or leave it out"
        )
    return token
