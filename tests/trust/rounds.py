"""The scenarios by command and fault, and how a round of them is run: with a seed, a folder and a server of its own."""

from __future__ import annotations

import random
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from trust.harness import Round
from trust.ledger import Piece, Row
from trust.server import FocusServer

Scenario = Callable[[Round], None]
COMMANDS = ("ask", "chat", "data", "compare", "train")
LONG = ("train",)
"""Commands of which a round takes a minute: not in the quick run."""


def scenarios(commands: tuple[str, ...] = COMMANDS) -> dict[tuple[str, str], Scenario]:
    """Every (command, fault) with its scenario."""
    return {
        (command, name): scenario
        for command in commands
        for name, scenario in import_module(f"trust.faults_{command}").SCENARIOS.items()
    }


def seed_of(command: str, fault: str, number: int) -> int:
    """The seed of a round: the same whatever else is run."""
    return zlib.crc32(f"{command}/{fault}/{number}".encode())


def new_round(folder: Path, *, seed: int, server: FocusServer) -> Round:
    """A round in an empty folder."""
    return Round(folder, random.Random(seed), seed, server)


def run_round(command: str, fault: str, scenario: Scenario, number: int, server: FocusServer) -> Round:
    """One round, in a folder of its own that is removed afterwards."""
    seed = seed_of(command, fault, number)
    server.reset()
    folder = Path(tempfile.mkdtemp(prefix="trust-round-"))
    round = new_round(folder, seed=seed, server=server)
    try:
        scenario(round)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return round


def judged(command: str, fault: str, scenario: Scenario, number: int, size: int = 1) -> Piece:
    """One round as a piece of a check; a failed one can be run again by its number."""
    server = FocusServer()
    try:
        round = run_round(command, fault, scenario, number, server)
    except Exception as error:  # noqa: BLE001  # a file that cannot be read fails a round as well as an assertion
        return Piece(1, [f"{type(error).__name__} {' '.join(str(error).split())[:1500]}"])
    finally:
        server.close()
    return Piece(1, sums={"struck": round.struck}, notes=sorted(round.notes))


def rows(rounds: int = 100) -> list[Row]:
    """Every command and fault as a check of so many rounds."""
    return [
        Row(command, fault, fault, "rounds", rounds, 1, partial(judged, command, fault, scenario))
        for (command, fault), scenario in scenarios().items()
    ]
