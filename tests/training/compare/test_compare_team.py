"""Which worker process gets which question: a question stays with one, and nobody waits for somebody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sifthinker.training.compare.engines import Team


class Worker:
    """A worker that keeps what it is sent."""

    def __init__(self) -> None:
        self.pending: dict[int, Any] = {}
        self.sent: list[str] = []

    def send(self, job: Any) -> None:
        self.pending[id(job)] = job
        self.sent.append(job.question.id)


def jobs(*counts: int) -> list[Any]:
    """So many jobs of a first question, so many of a second, and so on."""
    return [
        SimpleNamespace(question=SimpleNamespace(id=f"q{n}")) for n, count in enumerate(counts) for _ in range(count)
    ]


def test_a_worker_that_has_enough_does_not_keep_another_waiting() -> None:
    first, second = Worker(), Worker()
    waiting = iter(jobs(6, 6))
    Team([first, second], room=4).refill(waiting)
    assert (first.sent, second.sent) == (["q0"] * 4, ["q1"] * 4)


def test_a_question_stays_with_the_worker_that_has_encoded_its_picture() -> None:
    first, second = Worker(), Worker()
    team = Team([first, second], room=2)
    waiting = iter(jobs(5, 1, 5, 1))
    for _ in range(12):
        team.refill(waiting)
        for worker in (first, second):
            worker.pending.clear()
    assert sorted(first.sent + second.sent) == ["q0"] * 5 + ["q1"] + ["q2"] * 5 + ["q3"]
    assert not set(first.sent) & set(second.sent)


def test_no_more_is_held_than_every_worker_could_take() -> None:
    waiting = iter(jobs(100))
    Team([Worker(), Worker()], room=4).refill(waiting)
    assert len(list(waiting)) == 100 - 4 - 8
