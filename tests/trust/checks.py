"""What several commands must do alike under a fault: two at once, a disk that is full, a network that is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from trust.faults import OFFLINE, Fault
from trust.harness import Child, Outcome, Round, one_sentence, start


def told_of_the_disk(round: Round, outcome: Outcome) -> None:
    """Where it failed, one sentence says that the folder cannot be written and how to go on."""
    if outcome.code == 0:
        return
    round.struck += 1
    assert outcome.code == 1, outcome
    said = one_sentence(outcome)
    assert "cannot be written" in said, said
    assert "run the same command again" in said, said


def network_lost(round: Round, connections: int) -> Fault:
    """The network is gone from one of so many connections on, for a while or for good, in one of three ways."""
    way = round.rng.choice(sorted(OFFLINE))
    failing = round.rng.choice((0, 0, 1, round.rng.randint(2, 6)))
    round.notes.add(way)
    return Fault(offline_from=round.rng.randint(1, connections), offline_for=failing, offline=way)


def at_once(round: Round, *begins: Callable[[], Child], within_s: float = 0.1) -> list[Outcome]:
    """How several children ended, each begun at most so many seconds after the one before."""
    children: list[Child] = []
    for begin in begins:
        children.append(begin())
        time.sleep(round.rng.uniform(0, within_s))
    return [child.wait() for child in children]


def one_works(round: Round, argv: Sequence[str]) -> None:
    """The same command twice at once on one folder: one is refused, or finds all done."""
    outcomes = at_once(round, lambda: start(argv), lambda: start(argv))
    codes = sorted(outcome.code for outcome in outcomes)
    round.struck += codes == [0, 2]
    assert codes in ([0, 0], [0, 2]), outcomes
    for outcome in outcomes:
        if outcome.code:
            assert "wait for it, or name another folder" in one_sentence(outcome)
