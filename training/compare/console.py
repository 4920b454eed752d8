"""What a person sees of a comparison in the terminal: the progress while it runs, then the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sifthinker.training.compare.faithfulness import Faithfulness
from sifthinker.training.compare.plan import Asked
from sifthinker.training.compare.records import TIMING, Answered
from sifthinker.training.compare.results import Results
from sifthinker.training.compare.statistics import Interval
from sifthinker.training.compare.summary import Against, Alone, ModeScore, PolicyScores
from sifthinker.training.compare.words import number, percent, points, probability, share


class Watch:
    """A bar for each mode and control, with the accuracy so far."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str, str], TaskID] = {}
        self._right: dict[tuple[str, str, str], list[int]] = {}
        self._wanted: set[tuple[str, int]] = set()

    def start(self, asked: Asked) -> None:
        """Know what will be asked."""
        several = len(asked.plan.policies) > 1
        self._wanted = {(question.id, seed) for question in asked.questions for seed in asked.plan.seeds}
        for key, total in asked.counts().items():
            policy, name, pass_ = key
            words = {"": name, "edits": f"{name}, picture changed", TIMING: f"{name}, alone"}[pass_]
            label = f"{policy} · {words}" if several else words
            self._tasks[key] = self._progress.add_task(label, total=total, so_far="")
            self._right[key] = [0, 0]

    def answer(self, row: Answered) -> None:
        """Count an answer."""
        pass_ = TIMING if row.variant == TIMING else "edits" if row.variant else ""
        key = (row.policy, row.control or row.mode, pass_)
        if key not in self._tasks or (row.question, row.seed) not in self._wanted:
            return
        counts = self._right[key]
        counts[0] += row.right
        counts[1] += not row.skipped
        so_far = f"{100 * counts[0] / counts[1]:.1f} % right" if counts[1] and not pass_ else ""
        self._progress.update(self._tasks[key], advance=1, so_far=so_far)


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A live view on a terminal; nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[so_far]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Watch(progress)


def show(console: Console, results: Results) -> None:
    """The tables: modes and controls of each policy, then faithfulness."""
    for scores in results.all_policies():
        console.print(_scores(scores, results))
        changed = _faithfulness(scores)
        if changed.row_count:
            console.print(changed)
    for note in results.about.notes:
        console.print(Text(note, style="yellow"))
    told = f"{results.n} questions · seeds {', '.join(map(str, results.seeds))} · data {results.data_sha256[:12]}"
    console.print(Text(told, style="dim"))


def _scores(scores: PolicyScores, results: Results) -> Table:
    columns: dict[str, ModeScore] = {
        **scores.modes, **{f"tools, {name} boxes": score for name, score in scores.controls.items()}
    }  # fmt: skip
    title = f"{scores.policy} on {results.about.data}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    every = list(columns.values())
    table.add_row("asked", *(str(one.n) for one in every))
    table.add_row("accuracy", *(share(one.accuracy.value if one.accuracy else None) for one in every), style="bold")
    table.add_row("  95 % interval", *(_between(one.accuracy) for one in every))
    table.add_row("  against direct", *(_difference(one.against_direct) for one in every))
    table.add_row("  p (McNemar)", *(_p(one.against_direct) for one in every))
    if scores.controls:
        table.add_row("  against tools", *(_difference(one.against_tools) for one in every))
    for name in sorted({name for one in every for name in one.published}):
        table.add_row(f"  published: {name}", *(share(one.published.get(name)) for one in every))
    families = sorted({family for one in every for family in one.families})
    for family in families if len(families) > 1 else []:
        found = [one.families.get(family) for one in every]
        table.add_row(f"  {family}", *("–" if one is None else percent(one.accuracy.value) for one in found))
    table.add_row("grounding (HIoU)", *(_number(one.hiou, 3) for one in every))
    table.add_row("depth error", *(_number(one.depth_error, 3) for one in every))
    table.add_row("valid traces", *(share(one.valid) for one in every))
    table.add_row("no answer", *(str(one.no_answer) for one in every))
    if any(one.errors for one in every):
        table.add_row("  failed", *(str(one.errors) for one in every))
    if any(one.out_of_time for one in every):
        table.add_row("out of time", *(str(one.out_of_time) for one in every))
    table.add_row("tokens in", *(number(one.tokens_in, 0) for one in every))
    table.add_row("tokens out", *(number(one.tokens_out, 0) for one in every))
    table.add_row("images", *(number(one.images) for one in every))
    if any(one.went_on is not None for one in every):
        table.add_row("went on to tools", *(share(one.went_on) for one in every))
    table.add_row("seconds alone", *(_seconds(one.seconds_alone) for one in every))
    if any(one.skipped for one in every):
        table.add_row("not asked", *(str(sum(one.skipped.values())) for one in every))
    return table


def _faithfulness(scores: PolicyScores) -> Table:
    title = f"{scores.policy}: answers changed by changing the picture"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("mode, change", "pairs", "none", "cited region", "elsewhere", "difference", "times", "follows"):
        table.add_column(name, justify="left" if name.startswith("mode") else "right")
    for mode, kinds in scores.faithfulness.items():
        for kind, one in kinds.items():
            _add_faithfulness(table, f"{mode}, {kind}", one)
            for family, part in one.families.items() if one.n else ():
                _add_faithfulness(table, f"  {family}", part)
    return table


def _add_faithfulness(table: Table, name: str, one: Faithfulness) -> None:
    if not one.n and name.startswith(" "):
        return
    none = str(sum(one.skipped.values()))
    if not one.n:
        table.add_row(name, "0", none, *("–" * 5))
        return
    table.add_row(
        name, str(one.n), none, percent(one.cited.value), percent(one.elsewhere.value),
        f"{points(one.difference.value)} ({_between(one.difference)})",
        "–" if one.ratio is None else f"{one.ratio:.1f}",
        "–" if one.follows is None else f"{percent(one.follows.after)} of {one.follows.n}",
    )  # fmt: skip


def _between(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{100 * interval.low:.1f} – {100 * interval.high:.1f}".replace("-", "−")


def _difference(against: Against | None) -> str:
    return "–" if against is None else points(against.difference.value)


def _p(against: Against | None) -> str:
    return "–" if against is None else probability(against.test.p)


def _seconds(alone: Alone | None) -> str:
    return _number(alone.median if alone else None, 2)


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"
