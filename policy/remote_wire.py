"""What is sent to an OpenAI-compatible server, and where: addresses, headers, messages with images as data URLs."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from PIL import Image

from sifthinker.policy.base import PolicyProfile
from sifthinker.policy.control import defused
from sifthinker.policy.errors import UsageError
from sifthinker.policy.messages import ImagePart, Message, TextPart

PNG_PIXELS = 1_000_000
"""Up to this many pixels an image is sent without loss; above it as JPEG, which is a tenth of the size."""


def conversation(messages: Sequence[Message], profile: PolicyProfile) -> list[dict[str, Any]]:
    """Messages in the form of the chat completions API, images brought to the sizes of the profile."""
    return [{"role": turn.role, "content": _content(turn, profile)} for turn in messages]


def _content(turn: Message, profile: PolicyProfile) -> str | list[dict[str, Any]]:
    if not turn.images:
        return defused(turn.text)  # some servers take nothing but text from a system or an assistant
    content: list[dict[str, Any]] = []
    # Neighbouring texts are joined first: two harmless halves can make one control token.
    for is_image, parts in groupby(turn.parts, key=lambda part: isinstance(part, ImagePart)):
        if not is_image:
            text = "".join(part.text for part in parts if isinstance(part, TextPart))
            content.append({"type": "text", "text": defused(text)})
            continue
        for part in parts:
            if isinstance(part, ImagePart):
                size = profile.shown_size(part.image.size, part.kind)
                content.append({"type": "image_url", "image_url": {"url": _sent.url(part.image, size)}})
    return content


class SentImages:
    """Data URLs of the images sent last, by their pixels: every turn of a focus loop sends the earlier ones again.

    Telling that an image is the same costs a fraction of compressing it as PNG (though no less than as JPEG, so those
    are not kept). Thread-safe.

    Args:
        max_bytes: of URLs kept, the longest unused dropped first.
    """

    def __init__(self, max_bytes: int = 64_000_000) -> None:
        self.max_bytes = max_bytes
        self._urls: OrderedDict[bytes, str] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def url(self, image: Image.Image, size: tuple[int, int]) -> str:
        """The data URL of an image, brought to `size` (width, height)."""
        # Of a palette image the bytes alone do not say all.
        if image.mode != "RGB" or size[0] * size[1] > PNG_PIXELS:
            return data_url(_resized(image, size))
        key = _key(image, size)
        with self._lock:
            if key in self._urls:
                self._urls.move_to_end(key)
                return self._urls[key]
        url = data_url(_resized(image, size))
        with self._lock:
            if key not in self._urls:
                self._urls[key] = url
                self._bytes += len(url)
            while self._bytes > self.max_bytes:
                self._bytes -= len(self._urls.popitem(last=False)[1])
        return url


_sent = SentImages()


def _key(image: Image.Image, size: tuple[int, int]) -> bytes:
    digest = hashlib.blake2b(f"{image.size} {size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if size == image.size:
        return image
    smaller = max(size) < max(image.size)
    return image.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    """An image as a base64 data URL, PNG or (large ones) JPEG."""
    buffer = io.BytesIO()
    if image.width * image.height <= PNG_PIXELS:
        kind = "png"
        image.save(buffer, "PNG", compress_level=1)
    else:
        kind = "jpeg"
        image.convert("RGB").save(buffer, "JPEG", quality=95)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def endpoint(url: str) -> str:
    """The address of the chat completions of a server given with or without its path.

    Raises:
        UsageError: it is no address, or holds a password: addresses are written into reports.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        known = False
    if not known:
        raise UsageError(f"Expected a server's address such as http://localhost:8000, got {url!r}.")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "A server's address with a user name or password is not taken, since it would stand in reports: give a key "
            "as OPENAI_API_KEY, or load_policy api_key=…."
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def server_key(given: str | None) -> str | None:
    """The key for a server, without what a file or a copy left around it.

    Args:
        given: by the caller; None: the environment variable OPENAI_API_KEY is asked.

    Returns:
        the key, or None where there is none (an empty one is none).

    Raises:
        UsageError: it holds something that no header can. It is not quoted; an HTTP client would quote it.
    """
    key = str(os.environ.get("OPENAI_API_KEY", "") if given is None else given).strip()
    if not all("!" <= character <= "~" for character in key):
        raise UsageError("The API key holds a character that cannot be sent, perhaps of a copied text: give it anew.")
    return key or None


def shown_url(url: str) -> str:
    """An address for messages: host and port only, no user, no query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that `Retry-After` asks for, told as a number or as a date; None when it says nothing readable."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None
