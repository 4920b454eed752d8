"""Commands whose packages come with an extra: where one is missing, what to install is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sifthinker.policy.errors import UsageError

_EXTRA_OF = {
    "pyarrow": "data",
    **dict.fromkeys(("trl", "peft", "accelerate", "datasets", "transformers", "tokenizers"), "train"),
}
"""What brings a package that is not there, or not as it is needed; `transformers` is asked for anew by training."""


def missing_extra(error: ImportError, command: str, *, extra: str | None = None) -> UsageError | None:
    """What to install where an import failed in `sifthinker COMMAND`; None where that is not the cause.

    Args:
        error: of the import.
        command: that ran into it.
        extra: that brings what this command needs, where the package's name does not tell.
    """
    if error.name is None or error.name.startswith("sifthinker"):
        return None
    package = error.name.partition(".")[0]
    extra = _EXTRA_OF.get(package, extra)
    if extra is None:
        return None
    missing = isinstance(error, ModuleNotFoundError)
    what = "which is not installed" if missing else "which cannot be imported as it is"
    return UsageError(f"`sifthinker {command}` needs {package}, {what}: pip install 'sifthinker[{extra}]'.")


@contextmanager
def needing(extra: str, command: str) -> Iterator[None]:
    """Import in this block what `sifthinker COMMAND` needs of `sifthinker[EXTRA]`.

    Raises:
        UsageError: a package is missing, or is another version than is needed.
    """
    try:
        yield
    except ImportError as error:
        if (told := missing_extra(error, command, extra=extra)) is None:
            raise
        raise told from error
