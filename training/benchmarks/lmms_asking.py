"""What lmms-eval asks, put to the focus agent: messages into one question, its answer, a line for its trace.

Imports nothing of lmms-eval.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from sifthinker.agent import FocusResult, create_focus_agent
from sifthinker.nodes.context import FocusConfig
from sifthinker.nodes.images import ImageSource, MemoryImageStore
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import (
    DepthError,
    ImageError,
    PolicyLoadError,
    PolicyTimeout,
    PolicyUnavailable,
    SifthinkerError,
    UsageError,
)
from sifthinker.policy.files import expanded
from sifthinker.policy.load import load_policy
from sifthinker.training.benchmarks.base import side_by_side
from sifthinker.training.folders import unwritable
from sifthinker.training.rewards.matching import tagged_answer

logger = logging.getLogger(__name__)

_IMAGES_PX = 64_000_000  # bytes of pixels kept at hand: a few questions' pictures


@dataclass(frozen=True)
class LmmsQuestion:
    """A request of lmms-eval."""

    task: str
    split: str
    doc_id: int | str
    messages: Sequence[Mapping[str, Any]]
    """As its chat models are given them: role, and content of the types text, image, video, audio."""
    until: Sequence[str] = ()
    """Where the answer ends."""


@dataclass(frozen=True)
class LmmsAnswer:
    """What lmms-eval is told: the answer, empty where there is none, and its cost over all calls."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""
    """Why there is none, where asking failed."""
    unreachable: bool = False
    """Whether the policy was not there, or took too long."""


class LmmsAsker:
    """The focus agent behind lmms-eval's model.

    Tasks' generation arguments hold for short answers of plain models (often 16 tokens), which no trace fits into: the
    agent's own budgets and decoding (greedy) stand in their place. Of theirs `until` alone is kept, for the answer.

    Args:
        policy: a name that `load_policy` knows, or a policy.
        mode: "direct", "internal", "tools" or "adaptive".
        depth: as for `create_focus_agent`; None: what suits the policy, "none": boxes go without.
        batch: questions under way at once.
        device: of a local policy.
        traces: a JSONL file that gets a line a question; further runs are appended. None: traces are not kept.
        lenient: take an answer that stands outside its tags too. Such is no answer otherwise, as in `compare`.
        settings: fields of `FocusConfig` (max_steps, max_new_tokens, temperature, …); all others go to `load_policy`
            (dtype, adapter, box_space, …).

    Raises:
        UsageError, PolicyLoadError, DepthError: as `create_focus_agent`. DataError: `traces` cannot be written.
    """

    def __init__(
        self,
        *,
        policy: str | Policy = "embedded",
        mode: str = "tools",
        depth: str | None = None,
        batch: int = 1,
        device: str | None = None,
        traces: str | Path | None = None,
        lenient: bool = False,
        **settings: Any,
    ) -> None:
        if batch < 1:
            raise UsageError(f"Expected at least one question at once, got {batch}.")
        own = {name: settings.pop(name) for name in list(settings) if name in FocusConfig.model_fields}
        if isinstance(policy, str):
            remote = policy.startswith("openai:")
            settings.setdefault("max_concurrent" if remote else "max_batch", batch)
            if device is not None and not remote:
                settings.setdefault("device", device)
            policy = load_policy(policy, **settings)
        elif settings:
            raise UsageError(f"There is no setting {', '.join(map(repr, settings))}.")
        self.batch, self.lenient, self.mode = batch, lenient, mode
        self.agent = create_focus_agent(
            policy,
            depth=depth,
            mode=mode,  # type: ignore[arg-type]
            images=MemoryImageStore(_IMAGES_PX),
            **own,
        )
        self._traces = _Traces(None if traces is None else expanded(traces))

    def answer_all(
        self, questions: Iterable[LmmsQuestion], *, done: Callable[[], object] = lambda: None
    ) -> list[LmmsAnswer]:
        """An answer to each question, in their order; `done` is called after each. None is left out.

        Raises:
            UsageError: a task that shows videos or sounds, or talks in several rounds: none of its questions can be
                asked. PolicyUnavailable: not one question was answered, for the policy was not there.
        """
        answers: list[LmmsAnswer] = []
        pending: deque[Future[LmmsAnswer]] = deque()

        def take() -> None:
            answers.append(pending.popleft().result())
            done()

        pool = ThreadPoolExecutor(self.batch, thread_name_prefix="question")
        try:
            for question in questions:
                text, pictures = read_messages(question)
                pending.append(pool.submit(self._answer, question, text, pictures))
                if len(pending) >= 2 * self.batch:
                    take()
            while pending:
                take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = [one for one in answers if one.error]
        if failed and all(one.unreachable for one in answers):
            raise PolicyUnavailable(f"Not one of {len(answers)} questions was answered: {failed[0].error}")
        if failed:
            logger.warning(
                "%d of %d questions failed and count as empty answers; the first: %s",
                len(failed),
                len(answers),
                failed[0].error,
            )
        return answers

    def _answer(self, question: LmmsQuestion, text: str, pictures: Sequence[ImageSource]) -> LmmsAnswer:
        result: FocusResult | None = None
        error, unreachable = "", False
        try:
            if not pictures or not text:
                raise ImageError("missing", f"Question {question.doc_id} has no {'words' if pictures else 'picture'}.")
            image = pictures[0] if len(pictures) == 1 else side_by_side(pictures)
            result = self.agent.ask(text, image=image)
        except (UsageError, PolicyLoadError, DepthError):  # nothing of this question's own: no other would fare better
            raise
        except SifthinkerError as failure:
            error = str(failure)
            unreachable = isinstance(failure, PolicyTimeout | PolicyUnavailable)
        answer = "" if result is None else _until(said(result, lenient=self.lenient), question.until)
        self._traces.add(
            {
                "task": question.task,
                "split": question.split,
                "doc_id": question.doc_id,
                "question": text,
                "pictures": len(pictures),
                "mode": self.mode,
                "answer": answer,
                "error": error,
                "trace": "" if result is None else result.trace_text,
                "result": None if result is None else result.to_dict(),
            }
        )
        if result is None:
            return LmmsAnswer("", error=error, unreachable=unreachable)
        return LmmsAnswer(answer, result.tokens.prompt, result.tokens.completion)


def read_messages(question: LmmsQuestion) -> tuple[str, list[ImageSource]]:
    """The words and the pictures of a request, each in their order; of several pictures the words say how they stand.

    Raises:
        UsageError: videos, sounds, or turns of an assistant: the focus agent takes one question about a picture.
    """
    words: list[str] = []
    pictures: list[ImageSource] = []
    for message in question.messages:
        if message["role"] == "assistant":
            raise UsageError(f"{question.task} shows earlier turns of a talk: the focus agent takes one question.")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                words.append(part["text"].strip())
            elif part["type"] == "image" and isinstance(part["url"], str | Path | bytes | Image.Image):
                pictures.append(part["url"])
            else:
                raise UsageError(
                    f"{question.task} shows something of the type {part['type']!r} that is no picture: the focus agent "
                    "looks at pictures alone."
                )
    words = list(filter(None, words))
    if len(pictures) > 1 and words:
        order = "the first on the left" if len(pictures) == 2 else "in order from left to right"
        words.insert(0, f"Here are {len(pictures)} pictures side by side, {order}.")
    return "\n".join(words), pictures


def said(result: FocusResult, *, lenient: bool = False) -> str:
    """The answer as it counts: what stands in <answer></answer>, once (mode adaptive: in the part that decides)."""
    return result.answer if lenient else tagged_answer(result.answer, result.trace_text)


def _until(answer: str, ends: Sequence[str]) -> str:
    """The answer up to the first of these."""
    for end in filter(None, ends):
        answer = answer.partition(end)[0]
    return answer


class _Traces:
    """A file that lines are appended to, from any thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        if path is None:
            logger.warning("Traces are not kept: name a file for them with traces=FILE.")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise unwritable(error, path) from error

    def add(self, row: Mapping[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:
                raise unwritable(error, self._path) from error
