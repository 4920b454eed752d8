"""Fetching an image's bytes from the public web, and from nowhere else.

An address is resolved once; every address that its host resolves to must be public; the connection goes to the very
address that was checked (so a name that resolves differently a moment later gains nothing); redirects are refused; size
and time are limited while the bytes come in. Proxy settings are not used, as a proxy would resolve the name again.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, quote, urlsplit

from sifthinker.policy.errors import ImageError

Resolver = Callable[[str, int], Sequence[str]]
"""Host name and port to the IP addresses it stands for."""

_CHUNK = 64 * 1024
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def fetch(url: str, *, max_bytes: int, timeout: float, resolver: Resolver | None = None) -> bytes:
    """The body at an http or https address.

    Args:
        url: without user name or password.
        max_bytes: the body may have at most this many.
        timeout: seconds for everything together.
        resolver: the system's by default.

    Raises:
        ImageError: "url" for anything refused or failed, "too_large" for a body beyond the limit.
    """
    deadline = time.monotonic() + timeout
    parts, host, port = _split(url)
    address = _public_address(host, port, _in_time(resolver or _system_resolver, deadline, timeout))
    connection = _Pinned(parts.scheme == "https", host, port, address, deadline)
    watchdog = threading.Timer(timeout, connection.abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=-._~")
        connection.request(
            "GET", target, headers={"Accept": "image/png, image/jpeg, image/webp", "User-Agent": "sifthinker"}
        )
        return _read_body(connection.getresponse(), max_bytes, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise ImageError("url", f"The host {host!r} did not deliver within {timeout:g} seconds.") from error
        raise ImageError(
            "url", f"Fetching from {host!r} failed ({error}): save the image to a file and name that."
        ) from error
    finally:
        watchdog.cancel()
        connection.close()


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet, also where an IPv6 address wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is None and any(ip in network for network in _NAT64):
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _split(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = (parts.hostname or "").rstrip(".")
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError as error:
        raise ImageError("url", f"The address cannot be read ({error}): check its spelling.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ImageError("url", "Expected an address of the form https://host/path: check its spelling.")
    if parts.username is not None or parts.password is not None:
        raise ImageError("url", "An address with a user name or password is not fetched: save the image to a file.")
    return parts, host, port


def _public_address(host: str, port: int, resolver: Resolver) -> str:
    try:
        addresses = list(resolver(host, port))
        public = [is_public(address) for address in addresses]
    except (OSError, UnicodeError, ValueError) as error:
        raise ImageError("url", f"The host {host!r} cannot be found ({error}): check its spelling.") from error
    if not addresses or not all(public):
        raise ImageError(
            "url", f"The host {host!r} is not in the public internet: save the image to a file and name that."
        )
    return addresses[0]


def _in_time(resolver: Resolver, deadline: float, timeout: float) -> Resolver:
    """A resolver that ends by the deadline: the system's may wait for a name server for minutes."""

    def resolve(host: str, port: int) -> Sequence[str]:
        found: list[Sequence[str]] = []
        failed: list[Exception] = []

        def work() -> None:
            try:
                found.append(resolver(host, port))
            except (OSError, UnicodeError, ValueError) as error:
                failed.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(max(0.0, deadline - time.monotonic()))
        if failed:
            raise failed[0]
        if not found:
            raise ImageError("url", f"The host {host!r} was not found within {timeout:g} seconds: check its spelling.")
        return found[0]

    return resolve


def _system_resolver(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _read_body(response: http.client.HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    if 300 <= response.status < 400:
        raise ImageError("url", "The address redirects to another, which is not followed: give the final address.")
    if response.status != 200:
        raise ImageError("url", f"The server answered {response.status} {response.reason}: check the address.")
    encoding = response.getheader("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise ImageError("url", f"The server sent the image compressed as {encoding!r}, which is not unpacked.")
    announced = response.length or 0
    body = bytearray()
    while announced <= max_bytes and len(body) <= max_bytes:
        piece = response.read1(min(_CHUNK, max_bytes + 1 - len(body)))
        if time.monotonic() >= deadline:
            raise TimeoutError("timed out")
        if not piece:
            if announced > len(body):
                raise ImageError(
                    "truncated", f"The server broke off after {len(body)} of {announced} bytes: try again."
                )
            return bytes(body)
        body += piece
    raise ImageError("too_large", f"The image has more than {max_bytes / 1e6:g} MB: reduce it first.")


class _Pinned(http.client.HTTPConnection):
    """A connection to one address that was checked, whatever the host's name resolves to by now."""

    def __init__(self, secure: bool, host: str, port: int, address: str, deadline: float) -> None:
        super().__init__(host, port)
        self.default_port = 443 if secure else 80  # so that the Host header leaves the usual port out
        self._secure = secure
        self._address = address
        self._deadline = deadline
        self._live: socket.socket | None = None  # `sock` is let go as soon as the response has begun

    def connect(self) -> None:
        """Connect to the checked address; TLS still verifies the host's name."""
        remaining = max(self._deadline - time.monotonic(), 0.001)
        self.sock = self._live = socket.create_connection((self._address, self.port), timeout=remaining)
        if self._secure:
            context = ssl.create_default_context()
            secure = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._live = secure
            secure.do_handshake()

    def abort(self) -> None:
        """Break whatever is under way: a server that sends one byte a second must not outlive the deadline."""
        if self._live is not None:
            with contextlib.suppress(OSError):  # already closed
                self._live.shutdown(socket.SHUT_RDWR)
