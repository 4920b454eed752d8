"""Which images another program may name: those this process named itself, stored ones, files of folders it opened.

A model, or a client that speaks for one, chooses the words: a path from it is never taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sifthinker.nodes.context import FocusConfig
from sifthinker.nodes.images import ImageSource, ImageStore, load_image
from sifthinker.policy.errors import ImageError, UsageError
from sifthinker.policy.files import expanded

_MOST_LISTED = 50
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class ImageSources:
    """Finds images by name and puts them into the store.

    Args:
        store: where pixels are kept; whatever is in it can be named by its id (the hash).
        images: further names, and what they stand for; read when first asked for.
        folders: folders whose files can be named, by a path inside them. Links that lead out of them are not followed.
        config: the limits of an image.

    Raises:
        UsageError: a folder that is not there.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        images: Mapping[str, ImageSource] | None = None,
        folders: Sequence[str | Path] = (),
        config: FocusConfig | None = None,
    ) -> None:
        self.store = store
        self.images = dict(images or {})
        self.folders = [expanded(folder).resolve() for folder in folders]
        self._config = config or FocusConfig()
        for given, folder in zip(folders, self.folders, strict=True):
            if not folder.is_dir():
                raise UsageError(f"Expected a folder of images, but {str(given)!r} is none.")

    def find(self, name: str) -> str:
        """The id of the image that a name means, which is then in the store.

        Raises:
            ImageError: "missing" where the name means none here, and what `load_image` refuses.
        """
        if name in self.images:
            return self.keep(self.images[name])
        if name in self.store:
            return name
        if (path := self._file(name)) is not None:
            return self.keep(path)
        listed = self.names()
        known = f"known are {', '.join(listed)}" if listed else "none has a name"
        raise ImageError(
            "missing", f"There is no image {name[:100]!r} here: {known}; or give the id of a stored image."
        )

    def keep(self, source: ImageSource) -> str:
        """Check an image of this process's own and put it into the store; its id."""
        limits = self._config.limits
        return self.store.put(load_image(source, limits=limits, allow_urls=self._config.allow_urls).image)

    def names(self) -> list[str]:
        """The names that can be used, beside the ids of stored images; at most 50 files of the folders."""
        files: list[str] = []
        for folder in self.folders:
            for path in sorted(folder.rglob("*")):
                if len(files) >= _MOST_LISTED:
                    break
                if path.suffix.lower() in _SUFFIXES and self._file(str(path)) is not None:
                    files.append(path.relative_to(folder).as_posix())
        return [*self.images, *files]

    def _file(self, name: str) -> Path | None:
        """The file of a folder that a name means, if it means one."""
        for folder in self.folders:
            try:
                path = (folder / name).resolve()
                if path.is_relative_to(folder) and path.is_file():
                    return path
            except (OSError, ValueError, RuntimeError):  # a name that no file can have, or a ring of links
                continue
        return None
