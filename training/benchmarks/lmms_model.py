"""The class that lmms-eval makes and asks. Imports lmms-eval: loaded by it alone (see `lmms_eval.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from sifthinker.policy.errors import UsageError
from sifthinker.training.benchmarks.lmms_asking import LmmsAsker, LmmsQuestion


class FocusModel(lmms):
    """The focus agent as a chat model of lmms-eval: `generate_until` about pictures, and no more.

    Args:
        batch_size: questions under way at once; they share a local policy's forward passes or a server's slots.
        device: of a local policy.
        max_batch_size: taken, for lmms-eval gives it; of no use here.
        settings: `policy`, `mode`, `depth`, `traces`, `lenient` and what else `LmmsAsker` takes.

    Raises:
        UsageError: a setting that cannot be, or several processes.
    """

    is_simple = False

    def __init__(
        self,
        batch_size: int | str | None = 1,
        device: str | None = None,
        max_batch_size: int | str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "lmms-eval's several processes are not supported here: start one, with a higher --batch_size, or serve "
                "the model on all GPUs and name the server (policy=openai:MODEL@URL)."
            )
        self.asker = LmmsAsker(batch=_whole(batch_size), device=device, **settings)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """An answer to each request, in their order; empty where there is none."""
        with tqdm(total=len(requests), desc="Focusing", disable=not requests) as bar:
            answers = self.asker.answer_all(self._questions(requests), done=bar.update)
        return [
            GenerationResult(text=one.text, token_counts=TokenCounts(one.tokens_in, one.tokens_out)) for one in answers
        ]

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Cannot be had: an answer is what follows from looking, and no continuation of fixed words.

        Raises:
            UsageError: always.
        """
        raise _cannot("loglikelihood", requests)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Cannot be had: each request is one question.

        Raises:
            UsageError: always.
        """
        raise _cannot("generate_until_multi_round", requests)

    def _questions(self, requests: Iterable[Instance]) -> Iterator[LmmsQuestion]:
        """What is asked, one after another: a picture is decoded when its turn comes."""
        for request in requests:
            _, to_messages, arguments, doc_id, task, split = request.args
            messages = to_messages(self.task_dict[task][split][doc_id])
            until = (arguments or {}).get("until") or ()
            yield LmmsQuestion(
                task=task,
                split=split,
                doc_id=doc_id,
                messages=messages,
                until=(until,) if isinstance(until, str) else tuple(until),
            )


def _whole(batch_size: int | str | None) -> int:
    try:
        return int(batch_size or 1)
    except ValueError:
        raise UsageError(f"Expected --batch_size as a whole number, got {batch_size!r}.") from None


def _cannot(kind: str, requests: Sequence[Instance]) -> UsageError:
    tasks = ", ".join(sorted({str(request.task_name) for request in requests})) or "a task"
    return UsageError(f"{tasks} asks for {kind}: the focus agent answers tasks of the kind generate_until alone.")
