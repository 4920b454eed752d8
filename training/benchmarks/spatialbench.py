"""SpatialBench (SpatialBot, arXiv 2406.13642): position, existence, counting, reaching, size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sifthinker.policy.errors import DataError
from sifthinker.training.benchmarks.base import Asked, Benchmark, InTable, need, text_field
from sifthinker.training.benchmarks.card import Card
from sifthinker.training.benchmarks.choices import accuracy
from sifthinker.training.benchmarks.tables import Row, files_of, json_rows, parquet_rows
from sifthinker.training.compare.data import Judged, Question
from sifthinker.training.rewards.matching import normalise, number

_TASKS = ("positional", "existence", "counting", "reach", "size")
_PAIRED = ("existence", "reach", "size")


class SpatialBench(Benchmark):
    """The authors' folder: `positional.json`, `existence.json`, `counting.json`, `reach.json`, `size.json` (arrays of
    image, question, answer), and a folder of pictures for each.

    Answers are words, yes or no, or numbers, as the question asks for; there are no options. The entries of existence,
    reach and size come in pairs, a question and its opposite. `grounding.json` asks for boxes in a form that is not
    described, and is left out. Parquet mirrors (image, text, answer, category, question_id) are read as well.

    **Not sure**: the depth pictures beside (`positional_d/`, …) have no stated scale or polarity and are not read.
    """

    card = Card(
        name="spatialbench",
        title="SpatialBench",
        about="Which is nearer, is it there, how many, is it reached, which is larger.",
        paper="arXiv 2406.13642",
        hub="RussRobin/SpatialBench",
        size="174 questions in five tasks",
        licence="CC-BY-4.0",
        obtain="Accept its conditions on its page, then hf download RussRobin/SpatialBench --repo-type dataset "
        "--local-dir spatialbench, and spatialbench:./spatialbench.",
        files="positional.json, existence.json, counting.json, reach.json, size.json: image (a name, or a list of "
        "one), question, answer; and the pictures",
        published="positional: the answer holds the right one; existence: both of a pair; reach and size: (each of a "
        "pair + both) / 3; counting: 1 − the mean relative error; and their mean",
        strict="accuracy: the right word, yes or no, or number, and nothing besides; no answer is wrong",
        notes=(
            "Published code fails on a count that is no number; here it counts as an error of 1, and no error counts "
            "as more than 1.",
            "Pairs are scored where both questions were asked; a task without one has no score and is not in the mean.",
        ),
    )
    hub_files = ("*.json", *(f"{task}/*{ending}" for task in _TASKS for ending in (".jpg", ".jpeg", ".png", ".webp")))

    def read(self) -> Iterator[Asked]:
        folder = self.root if self.root.is_dir() else self.root.parent
        files = [path for task in _TASKS for path in files_of(folder, (f"{task}.json",))[:1]]
        if self.root.is_file():
            files = [self.root]
        tables = [] if files else files_of(self.root, ("*.parquet",))
        if not files and not tables:
            raise DataError(f"{self.root} is not SpatialBench: expected {self.card.files}.")
        for path in files:
            yield from self._parquet(path) if path.suffix == ".parquet" else self._json(path)
        for path in tables:
            yield from self._parquet(path)

    def published(self, judged: Sequence[Judged]) -> dict[str, float]:
        metrics: dict[str, Callable[[Sequence[Judged]], float | None]] = {
            "existence": _both, "reach": _each_and_both, "size": _each_and_both, "counting": _closeness,
        }  # fmt: skip
        told: dict[str, float] = {}
        for task in _TASKS:
            of_task = [one for one in judged if one.question.family == task]
            score = metrics.get(task, _share)(of_task) if of_task else None
            if score is not None:
                told[task] = score
        return {"mean": sum(told.values()) / len(told), **told} if told else {}

    def _json(self, path: Path) -> Iterator[Asked]:
        task = path.stem
        for index, row in enumerate(json_rows(path)):
            where = f"{path}, entry {index + 1}"
            need(row, ("image", "question", "answer"), where, self.card)
            names = row["image"] if isinstance(row["image"], list) else [row["image"]]
            if len(names) != 1 or not isinstance(names[0], str):
                raise DataError(f"{where}: expected one picture, got {row['image']!r:.80}.")
            yield Asked(_question(row, "question", task, index, where), self.file(names[0]))

    def _parquet(self, path: Path) -> Iterator[Asked]:
        counts: dict[str, int] = {}
        for position, row in parquet_rows(path, without=("image",)):
            where = f"{path}, row {position}"
            need(row, ("image", "text", "answer", "category"), where, self.card)
            task = text_field(row, "category", where)
            index = counts[task] = counts.get(task, -1) + 1
            yield Asked(_question(row, "text", task, index, where), InTable(path, "image", position))


def _question(row: Row, asked: str, task: str, index: int, where: str) -> Question:
    return Question(
        id=f"{task}-{index}",
        text=text_field(row, asked, where),
        answer=text_field(row, "answer", where),
        family=task,
        group=f"{task}-{index // 2}" if task in _PAIRED else "",
    )


def _holds(one: Judged) -> bool:
    """The published rule: the right answer's letters stand somewhere in what was answered."""
    return (bool(one.said.answer) and one.question.answer in one.said.answer) or one.right


def _share(judged: Sequence[Judged]) -> float:
    return accuracy([_holds(one) for one in judged])


def _pairs(judged: Sequence[Judged]) -> list[tuple[bool, bool]]:
    """A question and its opposite, both asked with the same seed."""
    groups: dict[tuple[str, int], list[bool]] = {}
    for one in judged:
        groups.setdefault((one.question.group, one.seed), []).append(_holds(one))
    return [(rows[0], rows[1]) for rows in groups.values() if len(rows) == 2]


def _both(judged: Sequence[Judged]) -> float | None:
    pairs = _pairs(judged)
    return accuracy([first and second for first, second in pairs]) if pairs else None


def _each_and_both(judged: Sequence[Judged]) -> float | None:
    pairs = _pairs(judged)
    return sum(first + second + (first and second) for first, second in pairs) / (3 * len(pairs)) if pairs else None


def _closeness(judged: Sequence[Judged]) -> float:
    errors = []
    for one in judged:
        said, right = number(normalise(one.said.answer)), number(normalise(one.question.answer))
        if said is None or not right:
            errors.append(0.0 if one.right else 1.0)
        else:
            errors.append(min(float(abs(said - right) / right), 1.0))
    return 1 - sum(errors) / len(errors)
