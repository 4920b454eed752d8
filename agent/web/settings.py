"""What the server allows: who may come, how many at once, how much each may hold."""

from __future__ import annotations

from dataclasses import dataclass

from sifthinker.agent.listening import LOOPBACK_NAMES


@dataclass(frozen=True)
class WebSettings:
    """Limits of the page's server. Memory is bounded by them: what is over is refused or forgotten, never kept."""

    credentials: str | None = None
    """`user:password` that everyone must give; None: nobody is asked."""
    hosts: frozenset[str] = LOOPBACK_NAMES
    """Names under which a browser may call this server (the Host header), without port."""
    any_address: bool = False
    """Whether it may also be called by any IP address. A rebound name is never one."""
    max_runs: int = 4
    """Questions answered at the same time."""
    max_sessions: int = 64
    """Conversations remembered; beyond it the one unused for longest is forgotten."""
    session_s: float = 2 * 3600.0
    """Seconds after which an unused conversation is forgotten."""
    max_questions: int = 50
    """Questions of one conversation."""
    max_pictures: int = 16
    """Pictures of one conversation."""
    max_session_bytes: int = 4_000_000
    """Text that one conversation may hold."""
    max_question_chars: int = 4000
    max_options: int = 32
    upload_s: float = 60.0
    """Seconds in which a picture must have arrived."""
    max_uploads: int = 4
    """Pictures taken in at the same time."""
    max_body_bytes: int = 65_536
    """Of anything sent that is not a picture."""
    max_listeners: int = 4
    """Streams of events open for one question."""
    image_bytes: int = 384_000_000
    """Pixels kept in memory, over all conversations; beyond it the longest unused are forgotten."""
