"""Every error this package raises on purpose.

    SifthinkerError
    ├── UsageError            wrong use: an empty question, an unknown mode or policy name (exit code 2)
    ├── ImageError            an image that is refused, with a reason code
    ├── TraceError            text that is not a trace, with a reason code and the offset
    ├── DepthError            a depth source that cannot be used
    ├── DataError             training data that cannot be read, written or trusted
    └── PolicyError           the policy could not be loaded or did not answer
        ├── PolicyLoadError       nothing usable at the given name, folder or address
        ├── PolicyTimeout         it took longer than it was given
        └── PolicyUnavailable     the server refused or broke off after all retries

Each message is one sentence or two: what was expected, what came, what to do.
"""

from __future__ import annotations


class SifthinkerError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(SifthinkerError):
    """The caller asked for something that cannot be: the message lists what can."""

    exit_code = 2


class ImageError(SifthinkerError):
    """An image that is refused.

    `reason` is one of: "missing", "not_a_file", "too_large", "not_an_image", "format", "pixels", "edge", "aspect",
    "truncated", "url".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TraceError(SifthinkerError):
    """Text that does not follow the trace grammar: `reason` says how, `offset` where (in characters)."""

    def __init__(self, reason: str, offset: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.offset = offset


class DepthError(SifthinkerError):
    """A depth map, depth image or depth model that cannot be used."""


class DataError(SifthinkerError):
    """Training data that cannot be read, written or trusted."""


class PolicyError(SifthinkerError):
    """The policy could not be loaded or did not answer. `status` is the HTTP status of a server's refusal."""

    def __init__(self, message: str = "", *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PolicyLoadError(PolicyError):
    """Nothing usable stands at the given name, folder or address."""


class PolicyTimeout(PolicyError):
    """The policy took longer than it was given."""


class PolicyUnavailable(PolicyError):
    """The server refused, failed or broke off, after all retries."""
