"""A real, small `Policy` for tests: it says what it was given to say, and remembers what it was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from sifthinker.policy.base import Completion, PolicyProfile, TokenCallback
from sifthinker.policy.messages import Message, count_images

Line = str | Completion | Exception | Callable[[Sequence[Message]], "str | Completion"]
"""A completion's text, a whole completion, an error to raise, or a function of the messages."""


class ScriptedPolicy:
    """Says its lines one after another; after the last one it repeats it.

    A line ends at the first stop string in it, as a model's completion would; what follows is lost. It is given to
    `on_token` word by word. A token is four characters.
    """

    def __init__(self, *lines: Line, dialect: str = "sif", seconds: float = 0.0, **profile: object) -> None:
        self._profile = PolicyProfile.model_validate({"name": "scripted", "dialect": dialect, **profile})
        self.lines = lines
        self.seconds = seconds
        self.heard: list[list[Message]] = []
        self.limits: list[dict[str, object]] = []
        self._lock = threading.Lock()

    @property
    def profile(self) -> PolicyProfile:
        return self._profile

    @property
    def calls(self) -> int:
        return len(self.heard)

    def generate(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        on_token: TokenCallback | None = None,
    ) -> Completion:
        with self._lock:
            line = self.lines[min(len(self.heard), len(self.lines) - 1)]
            self.heard.append(list(messages))
            self.limits.append({"stop": tuple(stop), "max_new_tokens": max_new_tokens, "timeout": timeout})
        if self.seconds:
            time.sleep(self.seconds)
        if callable(line):
            line = line(messages)
        if isinstance(line, Exception):
            raise line
        completion = line if isinstance(line, Completion) else _spoken(line, stop, max_new_tokens)
        completion.prompt_tokens = sum(len(turn.text) for turn in messages) // 4
        completion.images = count_images(messages)
        if on_token is not None:
            for piece in _pieces(completion.text):
                on_token(piece)
        return completion

    def generate_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        stop: Sequence[str] = (),
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> list[Completion]:
        return [
            self.generate(messages, stop=stop, max_new_tokens=max_new_tokens, timeout=timeout)
            for messages in conversations
        ]


def _spoken(line: str, stop: Sequence[str], max_new_tokens: int) -> Completion:
    ends = [(line.index(mark) + len(mark), mark) for mark in stop if mark in line]
    end, mark = min(ends, default=(len(line), None))
    text = line[:end]
    if len(text) > 4 * max_new_tokens:
        return Completion(text[: 4 * max_new_tokens], finish_reason="length", completion_tokens=max_new_tokens)
    return Completion(text, stop_string=mark, completion_tokens=(len(text) + 3) // 4)


def _pieces(text: str) -> Iterable[str]:
    return (text[start : start + 7] for start in range(0, len(text), 7))


def area(*boxes: Sequence[float], depth: float = 0.5) -> str:
    """`<area>…</area>` with these normalised boxes."""
    numbers = [",".join(f"{value:.3f}" for value in box) for box in boxes]
    listed = ",".join(f'{{"bbox_2d":[{box}],"depth":{depth:.3f}}}' for box in numbers)
    return f"<area>[{listed}]</area>"


def focus_lines(*boxes: Sequence[float], answer: str = "red", text: str = "a thing") -> list[str]:
    """The spans of a run in mode tools that looks at these boxes, one after another, and answers."""
    lines = [f"<think>{area(boxes[0])}"]
    lines += [f"<text>{text} {index}</text>{area(box)}" for index, box in enumerate(boxes[1:], 1)]
    return [*lines, f"<text>{text} {len(boxes)}</text></think><answer>{answer}</answer>"]
