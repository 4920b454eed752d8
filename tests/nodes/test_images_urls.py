"""Addresses: off by default, public hosts only, no redirects, bounded in size and time, and no rebinding."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from PIL import Image

from sifthinker.nodes.images import ImageLimits, load_image
from sifthinker.nodes.urls import is_public
from sifthinker.policy.errors import ImageError

PUBLIC = "93.184.216.34"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Site(BaseHTTPRequestHandler):
    """Answers by path; `Host` headers are kept for the tests to look at."""

    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        if self.path == "/picture":
            self._send(200, png())
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
        elif self.path == "/missing":
            self._send(404, b"")
        elif self.path == "/large":
            self._send(200, bytes(300_000))
        elif self.path == "/large-unannounced":
            self._send(200, bytes(300_000), announce=False)
        elif self.path == "/broken-off":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(bytes(1000))
        elif self.path == "/compressed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
        elif self.path == "/slow-body":
            self.send_response(200)
            self.end_headers()
            self._drip()
        elif self.path == "/slow-header":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            self._drip()

    def _send(self, status: int, body: bytes, announce: bool = True) -> None:
        self.send_response(status)
        if announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        try:
            for _ in range(200):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """A server that stands for the public internet: the addresses that were connected to, all answered by it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    connect = socket.create_connection
    asked: list[tuple[str, int]] = []

    def to_the_server(address: tuple[str, int], timeout: float | None = None, **_: object) -> socket.socket:
        asked.append(address)
        return connect(server.server_address[:2], timeout)

    monkeypatch.setattr(socket, "create_connection", to_the_server)
    Site.hosts.clear()
    yield asked
    server.shutdown()
    server.server_close()


def public(host: str, port: int) -> list[str]:
    return [PUBLIC]


def refusal(url: str, *, max_bytes: int = 100_000, seconds: float = 5.0) -> ImageError:
    limits = ImageLimits(max_bytes=max_bytes, max_url_seconds=seconds)
    with pytest.raises(ImageError) as caught:
        load_image(url, allow_urls=True, resolver=public, limits=limits)
    return caught.value


def test_an_address_is_not_fetched_unless_allowed(asked: list[tuple[str, int]]) -> None:
    with pytest.raises(ImageError) as caught:
        load_image("https://example.com/picture", resolver=public)
    assert caught.value.reason == "url"
    assert asked == []


def test_a_public_address_is_fetched_when_allowed(asked: list[tuple[str, int]]) -> None:
    loaded = load_image("http://example.com/picture", allow_urls=True, resolver=public)
    assert loaded.size == (20, 20)
    assert asked == [(PUBLIC, 80)]
    assert Site.hosts == ["example.com"]


def test_the_connection_goes_to_the_address_that_was_checked(asked: list[tuple[str, int]]) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])  # a name that is rebound after the check
    load_image("http://rebind.example/picture", allow_urls=True, resolver=lambda host, port: next(answers))
    assert asked == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "192.0.0.1",
        "198.18.0.1",
    ],
)
def test_no_private_address_is_connected_to(address: str, asked: list[tuple[str, int]]) -> None:
    assert not is_public(address)
    for addresses in ([address], [PUBLIC, address]):
        with pytest.raises(ImageError) as caught:
            load_image("http://inside.example/", allow_urls=True, resolver=lambda host, port, a=addresses: a)
        assert caught.value.reason == "url"
    assert asked == []


def test_a_silent_name_server_is_waited_for_no_longer_than_the_limit(
    asked: list[tuple[str, int]],
) -> None:
    released = threading.Event()

    def resolver(host: str, port: int) -> list[str]:
        released.wait(20)
        return [PUBLIC]

    started = time.monotonic()
    with pytest.raises(ImageError, match="not found within") as caught:
        load_image("http://slow.example/", allow_urls=True, resolver=resolver, limits=ImageLimits(max_url_seconds=0.2))
    released.set()
    assert time.monotonic() - started < 10
    assert caught.value.reason == "url"
    assert asked == []


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"])
def test_public_addresses_are_known_as_such(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "2130706433", "0x7f.1", "127.1"])
def test_the_systems_resolver_finds_loopback_in_every_spelling(host: str, asked: list[tuple[str, int]]) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(f"http://{host}/picture", allow_urls=True)
    assert caught.value.reason == "url"
    assert asked == []


@pytest.mark.parametrize(
    ("path", "reason", "says"),
    [
        ("moved", "url", "redirects"),
        ("missing", "url", "404"),
        ("compressed", "url", "gzip"),
        ("large", "too_large", "0.1 MB"),
        ("large-unannounced", "too_large", "0.1 MB"),
        ("broken-off", "too_large", "0.1 MB"),
    ],
)
def test_answers_that_are_not_an_image_within_the_limits_are_refused(
    path: str, reason: str, says: str, asked: list[tuple[str, int]]
) -> None:
    error = refusal(f"http://example.com/{path}")
    assert error.reason == reason
    assert says in str(error)
    assert len(asked) == 1


def test_a_body_that_breaks_off_is_refused(asked: list[tuple[str, int]]) -> None:
    assert refusal("http://example.com/broken-off", max_bytes=2_000_000).reason == "truncated"


@pytest.mark.parametrize("path", ["slow-body", "slow-header"])
def test_a_server_that_drips_does_not_outlive_the_time_limit(path: str, asked: list[tuple[str, int]]) -> None:
    start = time.monotonic()
    error = refusal(f"http://example.com/{path}", seconds=0.4)
    assert error.reason == "url"
    assert "0.4 seconds" in str(error)
    assert time.monotonic() - start < 3


def test_tls_verifies_the_hosts_name_and_fails_as_a_sentence(asked: list[tuple[str, int]]) -> None:
    assert refusal("https://example.com/picture", seconds=2).reason == "url"  # the server speaks no TLS
    assert asked == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "http://",
        "http://user:secret@example.com/",
        "http://example.com:99999/",
        "http://[::1/",
        "http://exa mple.com/\r\nX: y",
        "http://" + "a" * 300 + ".com/",
    ],
)
def test_addresses_of_another_form_are_refused(url: str, asked: list[tuple[str, int]]) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(url, allow_urls=True)
    assert caught.value.reason == "url"
    assert asked == []
