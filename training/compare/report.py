"""The HTML report of a comparison: one file that holds everything, readable on a phone, on paper, and in the dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sifthinker.agent.pictures import STEP_COLOURS
from sifthinker.policy.files import write_whole
from sifthinker.training.compare import words
from sifthinker.training.compare.disagree import MOST_SHOWN, Disagreement, Verdicts, disagreements
from sifthinker.training.compare.findings import findings, tokens
from sifthinker.training.compare.plots import Point, cost_plot, whisker
from sifthinker.training.compare.records import Answered
from sifthinker.training.compare.results import REPORT, Results
from sifthinker.training.compare.summary import ModeScore, PolicyScores

if TYPE_CHECKING:
    from sifthinker.training.compare.run import Finished

_STYLES = ("direct", "internal", "tools", "adaptive")


@dataclass(frozen=True)
class _Column:
    """A mode or a control, as the page shows it."""

    name: str
    style: str
    score: ModeScore
    dot: Markup
    gain: Markup


@dataclass(frozen=True)
class _Exchange:
    """How often one mode is right where another is wrong."""

    name: str
    counts: list[int | None]


@dataclass(frozen=True)
class _Section:
    """All about one policy."""

    scores: PolicyScores
    findings: list[str]
    modes: list[_Column]
    controls: list[_Column]
    adaptive: bool
    families: list[str]
    best: dict[str, float]
    """Of each family, the highest accuracy of a mode."""
    plots: list[Markup]
    exchanges: list[_Exchange]
    disagreements: list[Disagreement]
    disagreeing: int


def write_report(folder: Path, finished: Finished) -> Path:
    """Write `report.html`, and return its path."""
    path = folder / REPORT
    page = render_page(finished)
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def render_page(finished: Finished) -> str:
    """The whole page; it loads nothing, and runs no script at all."""
    results = finished.results
    environment = Environment(
        loader=PackageLoader("sifthinker.training.compare"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(
        percent=words.percent, share=words.share, points=words.points, p=words.probability, number=words.number
    )
    scores = results.all_policies()
    style = resources.files("sifthinker.training.compare").joinpath("templates", "compare.css")
    return environment.get_template("compare.html").render(
        results=results,
        about=results.about,
        colours=STEP_COLOURS,
        sections=[_section(one, finished, MOST_SHOWN // len(scores)) for one in scores],
        style=Markup(style.read_text(encoding="utf-8")),
        version=metadata.version("sifthinker"),
        whisker=lambda interval, name: Markup(whisker(interval, _style(name), low=-1.0)),
    )


def _section(scores: PolicyScores, finished: Finished, most: int) -> _Section:
    modes = [_column(name, name, score) for name, score in scores.modes.items()]
    names = list(scores.modes)
    verdicts = _verdicts(finished, scores)
    questions = {question.id: question for question in finished.asked.questions}
    families = sorted({family for column in modes for family in column.score.families})
    return _Section(
        scores=scores,
        findings=findings(scores),
        modes=modes,
        controls=[_column(f"{name} boxes", name, score) for name, score in scores.controls.items()],
        adaptive=any(column.score.went_on is not None for column in modes),
        families=families,
        best={
            family: max(c.score.families[family].accuracy.value for c in modes if family in c.score.families)
            for family in families
        },
        plots=[Markup(plot) for plot in _plots(modes)],
        exchanges=_exchanges(verdicts, names),
        disagreements=disagreements(
            _plain_rows(finished, scores),
            verdicts,
            finished.results.seeds[0],
            names,
            questions,
            finished.asked.data,
            most,
        ),
        disagreeing=sum({True, False} <= set(pattern) for pattern in verdicts.values()),
    )


def _column(name: str, style: str, score: ModeScore) -> _Column:
    gain = "" if score.against_direct is None else whisker(score.against_direct.difference, _style(style), low=-1.0)
    dot = "" if score.accuracy is None else whisker(score.accuracy, _style(style))
    return _Column(name, _style(style), score, Markup(dot), Markup(gain))


def _style(name: str) -> str:
    return name if name in _STYLES else "control"


def _plots(columns: Sequence[_Column]) -> list[str]:
    """Accuracy against each kind of cost."""
    costs: list[tuple[str, int, list[float | None]]] = [
        ("tokens a question, in and out", 0, [tokens(c.score) for c in columns]),
        ("pictures shown a question", 1, [c.score.images for c in columns]),
    ]
    alone = [c.score.seconds_alone for c in columns]
    if all(one is not None for one in alone):
        costs.append(("seconds a question, asked alone", 1, [one.median for one in alone if one is not None]))
    drawn = []
    for name, decimals, values in costs:
        points = [
            Point(column.name, cost, column.score.accuracy, column.style)
            for column, cost in zip(columns, values, strict=True)
            if cost is not None and column.score.accuracy is not None
        ]
        drawn += [cost_plot(points, name, decimals=decimals)] if points else []
    return drawn


def _plain_rows(finished: Finished, scores: PolicyScores) -> Iterator[Answered]:
    """The answers to the questions as they are, in the modes compared, one after another."""
    wanted = {question.id for question in finished.asked.questions}
    for row in finished.rows:
        if (
            row.policy == scores.policy
            and row.mode in scores.modes
            and not row.control
            and not row.variant
            and row.question in wanted
            and row.seed in finished.results.seeds
        ):
            yield row


def _verdicts(finished: Finished, scores: PolicyScores) -> Verdicts:
    """What is right, in few bytes an answer."""
    modes = {mode: place for place, mode in enumerate(scores.modes)}
    nothing: tuple[bool | None, ...] = (None,) * len(modes)
    verdicts: Verdicts = {}
    for row in _plain_rows(finished, scores):
        before, place = verdicts.get((row.question, row.seed), nothing), modes[row.mode]
        verdicts[row.question, row.seed] = (*before[:place], row.right, *before[place + 1 :])
    return verdicts


def _exchanges(verdicts: Verdicts, modes: Sequence[str]) -> list[_Exchange]:
    return [
        _Exchange(
            name,
            [
                None if one == other
                else sum(pattern[one] is True and pattern[other] is False for pattern in verdicts.values())
                for other in range(len(modes))
            ],
        )
        for one, name in enumerate(modes)
    ]  # fmt: skip


__all__ = ["Results", "render_page", "write_report"]
