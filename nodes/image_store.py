"""Where pixels live while states and checkpoints carry only their hashes."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol, runtime_checkable
from weakref import WeakValueDictionary

from PIL import Image

from sifthinker.policy.errors import ImageError
from sifthinker.policy.files import write_whole
from sifthinker.policy.image_files import ImageLimits, open_checked

# What this program wrote itself was checked before it was put here.
_OWN_FILES = ImageLimits(max_bytes=10**9, max_pixels=10**9, max_edge=10**6, max_aspect=10**6)
_HASH = re.compile(r"[0-9a-f]{64}")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def image_hash(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


@runtime_checkable
class ImageStore(Protocol):
    """Images by the hash of their pixels."""

    def put(self, image: Image.Image) -> str:
        """Keep an RGB image; the same pixels give the same hash."""
        ...

    def get(self, sha256: str) -> Image.Image:
        """The image of a hash, not to be changed by the caller (ImageError "missing" if it is not there)."""
        ...

    def __contains__(self, sha256: object) -> bool: ...


class MemoryImageStore:
    """Images in memory; beyond `max_bytes` of pixels the longest unused are dropped, never the newest. Thread-safe.

    One that was dropped is found as long as somebody holds it still, who pays for its memory anyway.
    """

    def __init__(self, max_bytes: int = 512_000_000) -> None:
        self.max_bytes = max_bytes
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._held: WeakValueDictionary[str, Image.Image] = WeakValueDictionary()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, image: Image.Image) -> str:
        """Keep an RGB image and return its hash."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        sha256 = image_hash(image)
        self.keep(sha256, image)
        return sha256

    def keep(self, sha256: str, image: Image.Image) -> None:
        """Keep an RGB image whose hash is known."""
        with self._lock:
            self._held[sha256] = image  # of several that are the same the newest, which is held the longest
            if sha256 not in self._images:
                self._images[sha256] = image
                self._bytes += pixel_bytes(image)
            self._images.move_to_end(sha256)
            while self._bytes > self.max_bytes and len(self._images) > 1:
                self._bytes -= pixel_bytes(self._images.popitem(last=False)[1])

    def get(self, sha256: str) -> Image.Image:
        """The image of a hash."""
        with self._lock:
            if sha256 in self._images:
                self._images.move_to_end(sha256)
                return self._images[sha256]
            held = self._held.get(sha256)
        if held is None:
            raise _not_stored(sha256)
        return held

    def __contains__(self, sha256: object) -> bool:
        with self._lock:
            return sha256 in self._images or sha256 in self._held

    def __len__(self) -> int:
        return len(self._images)


class FolderImageStore:
    """Images as PNG files named by their hash. Processes may share a folder: a file appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def put(self, image: Image.Image) -> str:
        """Keep an RGB image and return its hash."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        sha256 = image_hash(image)
        target = self._file(sha256)
        if not _is_whole(target):
            write_whole(target, lambda part: image.save(part, "PNG", compress_level=1), on_disk=False)
        return sha256

    def get(self, sha256: str) -> Image.Image:
        """The image of a hash."""
        if sha256 not in self:
            raise _not_stored(sha256)
        return open_checked(self._file(sha256).read_bytes(), _OWN_FILES)[0]

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and _HASH.fullmatch(sha256) is not None and self._file(sha256).exists()

    def _file(self, sha256: str) -> Path:
        return self.path / f"{sha256}.png"


class HeldImages:
    """A store as one run sees it: what the run has put there or got from it is at hand until it lets go, whatever the
    store itself drops for others meanwhile.

    Of what it only put, the longest unused go beyond the bytes of a `MemoryImageStore`: a conversation may bring many
    images, of which one is looked at.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._brought = MemoryImageStore()
        self._looked_at: dict[str, Image.Image] = {}

    def put(self, image: Image.Image) -> str:
        """Put an RGB image into the store, and return its hash."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        sha256 = self._store.put(image)
        self._brought.keep(sha256, image)
        return sha256

    def get(self, sha256: str) -> Image.Image:
        """The image of a hash."""
        looked_at = self._looked_at
        if (image := looked_at.get(sha256)) is None:
            store = self._brought if sha256 in self._brought else self._store
            image = looked_at[sha256] = store.get(sha256)
        return image

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._looked_at or sha256 in self._brought or sha256 in self._store

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._brought, self._looked_at = MemoryImageStore(), {}


def _is_whole(path: Path) -> bool:
    """Whether a PNG file is there to its end: a power failure may leave its name with half of it, or nothing."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_PNG_END)))
            return file.read() == _PNG_END
    except OSError:
        return False


def _not_stored(sha256: str) -> ImageError:
    return ImageError("missing", f"No image {str(sha256)[:12]}… is stored here: give the image again.")


def pixel_bytes(image: Image.Image) -> int:
    """What the pixels of an RGB image take in memory: Pillow gives each four bytes."""
    return image.width * image.height * 4
