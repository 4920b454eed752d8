"""The order in which a run asks its questions: the whole run laid out as one pass, a function of the seed alone.

TRL shuffles anew for each epoch from a state that is not kept, so that a run that goes on in a later epoch would ask
other questions. Here all epochs are one sequence, and a run that goes on skips to its place in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler
from trl import GRPOConfig


class RoundSampler(Sampler[int]):
    """Rows in the order in which TRL wants them: rounds of distinct questions, each row as often as its group is large,
    each round as often as it is fetched.

    Args:
        rows: of the data.
        rounds: of the run.
        questions: of a round.
        group: completions of a question.
        fetches: how often a round is fetched (passes over it).
        seed: of the order.
        shuffle: whether rows come in a new order in each epoch.
    """

    def __init__(
        self, rows: int, *, rounds: int, questions: int, group: int, fetches: int, seed: int, shuffle: bool = True
    ) -> None:
        self.rows, self.rounds, self.questions = rows, rounds, questions
        self.group, self.fetches = group, fetches
        self.seed, self.shuffle = seed, shuffle

    def __len__(self) -> int:
        return self.rounds * self.questions * self.group * self.fetches

    def __iter__(self) -> Iterator[int]:
        stream = self._stream()
        for _ in range(self.rounds):
            chosen = [next(stream) for _ in range(self.questions)]
            for _ in range(self.fetches):
                for row in chosen:
                    for _ in range(self.group):
                        yield row

    def first_round(self) -> list[int]:
        """The rows of the first round, each once."""
        return list(itertools.islice(self._stream(), self.questions))

    def _stream(self) -> Iterator[int]:
        """Rows without end, epoch after epoch."""
        epoch = 0
        while True:
            order = (
                np.random.default_rng([self.seed, epoch]).permutation(self.rows) if self.shuffle else range(self.rows)
            )
            yield from map(int, order)
            epoch += 1


def rounds_of(rows: int, questions: int, *, epochs: float, steps: int, passes: int, fetches: int) -> int:
    """How many rounds a run has: by its steps where they are given, else by its epochs; at least one.

    Args:
        rows: of the data.
        questions: of a round.
        epochs: over the data.
        steps: of the optimiser; 0 or less: not given.
        passes: of a step.
        fetches: passes over a round.
    """
    if steps > 0:
        return math.ceil(steps * passes / fetches)
    return max(1, math.floor(epochs * rows / questions))


def order_of(rows: int, args: GRPOConfig, *, epochs: float, shuffle: bool = True) -> RoundSampler:
    """The order of a run's questions.

    Args:
        rows: of the data.
        args: TRL's arguments; of several processes those of all together.
        epochs: over the data, where the arguments name no steps.
        shuffle: whether rows come in a new order in each epoch.
    """
    questions = args.generation_batch_size // args.num_generations
    fetches = args.num_iterations * args.steps_per_generation
    rounds = rounds_of(
        rows,
        questions,
        epochs=epochs,
        steps=args.max_steps,
        passes=args.gradient_accumulation_steps,
        fetches=fetches,
    )
    return RoundSampler(
        rows,
        rounds=rounds,
        questions=questions,
        group=args.num_generations,
        fetches=fetches,
        seed=args.seed,
        shuffle=shuffle,
    )
