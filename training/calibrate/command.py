"""`sifthinker calibrate`: asks, learns, stores, and says what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.agent import create_focus_agent
from sifthinker.agent.asking import chosen_policy, run_settings
from sifthinker.agent.console import FocusConsole, write_json
from sifthinker.policy.calibration import Calibration
from sifthinker.policy.calibration_store import identity_of, keep_calibration
from sifthinker.policy.errors import UsageError
from sifthinker.policy.files import expanded
from sifthinker.training.calibrate.asked import ask_questions, data_digest, journal_path
from sifthinker.training.calibrate.learn import LEAST_FOR_FOLDS, Learnt, Outcome, learn
from sifthinker.training.compare.data import QuestionSet, limited, open_data

if TYPE_CHECKING:
    from rich.table import Table

COSTS = ("tokens", "seconds", "images")
_COVERAGES = (0.2, 0.4, 0.6, 0.8, 1.0)


def run_calibrate(
    *,
    policy: str,
    data: str,
    depth: str | None,
    cost: str,
    limit: int | None,
    seed: int,
    workers: int,
    settings: Sequence[str],
    keep: bool,
    as_json: bool,
) -> None:
    """Calibrate a policy; see `sifthinker calibrate --help`.

    Raises:
        UsageError: wrong use, data without questions to be answered in words. PolicyError: the policy did not answer.
    """
    if cost not in COSTS:
        raise UsageError(f"Expected --cost to be one of {', '.join(COSTS)}, got {cost!r}.")
    if workers < 1 or (limit is not None and limit < 1):
        raise UsageError("Expected --workers and --limit of at least 1.")
    source = open_data(data)
    questions = limited(source.questions(), limit)
    if any(question.kind != "text" for question in questions):
        raise UsageError(f"{source.name} asks for places: calibrate on questions that are answered in words.")
    agent = create_focus_agent(
        chosen_policy(policy, settings), depth=depth, mode="adaptive", always_go_on=True, **run_settings(settings)
    )
    sha256 = data_digest(source, questions)
    journal = journal_path(agent, sha256, seed)
    from rich.console import Console
    from rich.progress import Progress

    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("asking", total=len(questions))
        outcomes = ask_questions(
            agent, source, questions, seed=seed, workers=workers, journal=journal,
            on_done=lambda: progress.advance(task),
        )  # fmt: skip
    learnt = learn(outcomes, cost=cost, seed=seed)
    context = agent.context
    calibration = Calibration(
        confidence_threshold=learnt.rule.confidence_threshold,
        depth_tolerance=learnt.rule.depth_tolerance,
        identity=identity_of(context.policy),
        depth=getattr(context.depth, "name", None),
        data=source.name,
        data_sha256=sha256,
        questions=len(outcomes),
        seed=seed,
        cost=cost,
        internal=learnt.internal,
        tools=learnt.tools,
        learnt=learnt.learnt,
        held_out=learnt.held_out,
        went_on=learnt.went_on,
        version=version("sifthinker"),
    )
    kept = keep_calibration(context.policy, calibration, folder=_folder(policy)) if keep else None
    journal.unlink(missing_ok=True)
    if as_json:
        write_json({**_told(calibration, learnt, outcomes), "kept_in": None if kept is None else str(kept)})
        return
    _show(calibration, learnt, outcomes, source, kept)


def _folder(policy: str) -> Path | None:
    """The policy's own folder, where its name is one."""
    folder = expanded(policy)
    return folder if policy != "embedded" and folder.is_dir() else None


def _told(calibration: Calibration, learnt: Learnt, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The JSON of the command."""
    return {
        "calibration": calibration.model_dump(mode="json"),
        "learnt": learnt.model_dump(mode="json"),
        "failed": [{"id": one.id, "error": one.error} for one in outcomes if one.error],
        "outcomes": [one.model_dump(mode="json") for one in outcomes],
    }


def _show(
    calibration: Calibration, learnt: Learnt, outcomes: Sequence[Outcome], source: QuestionSet, kept: Path | None
) -> None:
    console = FocusConsole()
    console.console.print(_table(calibration, learnt, source))
    console.say(_rule_words(calibration))
    if learnt.auroc is not None:
        console.say(f"The confidence tells right from wrong completions with an AUROC of {learnt.auroc:.2f}.")
        console.say(f"Wrong among the surest: {', '.join(_risks(learnt))}.")
    else:
        console.note("The policy gives no log-probabilities, or its answers are all right or all wrong: the confidence "
                     "tells nothing.")  # fmt: skip
    if learnt.loss is None:
        console.note(f"With fewer than {LEAST_FOR_FOLDS} questions the rule was not tested on questions held out.")
    else:
        console.say(_held_out_words(learnt.loss, learnt.loss_low or 0.0, learnt.loss_high or 0.0))
    if failed := [one for one in outcomes if one.error]:
        console.note(f"{len(failed)} questions could not be asked and count as wrong, the first: {failed[0].error}")
    console.say(f"Kept in {kept}." if kept is not None else "Nothing was kept.")


def _table(calibration: Calibration, learnt: Learnt, source: QuestionSet) -> Table:
    from rich.markup import escape
    from rich.table import Table

    title = f"{calibration.questions} questions of {source.name}, seed {calibration.seed}"
    table = Table(title=escape(title), title_justify="left")
    for name in ("", "accuracy", calibration.cost, "went on"):
        table.add_column(name, justify="left" if not name else "right")
    rows = [
        ("the completion alone", learnt.internal, 0.0),
        ("then tools, always", learnt.tools, 1.0),
        ("adaptive, as learnt", learnt.learnt, learnt.went_on),
    ]
    if learnt.held_out is not None:
        rows.append(("adaptive, held out", learnt.held_out, learnt.held_out_went_on or 0.0))
    for name, scores, went_on in rows:
        table.add_row(name, f"{scores.accuracy:.1%}", f"{scores.cost:,.1f}", f"{went_on:.0%}")
    return table


def _rule_words(calibration: Calibration) -> str:
    parts = ["a malformed trace"]
    if calibration.confidence_threshold is not None:
        parts.append(f"a confidence below {calibration.confidence_threshold:.4g}")
    if calibration.depth_tolerance is not None:
        parts.append(f"depths more than {calibration.depth_tolerance:.2f} off the map")
    return f"Goes on to tools at {' or '.join(parts)} ({calibration.criterion})."


def _held_out_words(loss: float, low: float, high: float) -> str:
    """How the rule fares on questions that it was not learnt from; the interval is told in the same direction."""
    verb, low, high = ("loses", low, high) if loss > 0 else ("gains", -high, -low)
    return (
        f"On questions held out it {verb} {100 * abs(loss):.1f} points against the better of never and always going on "
        f"(95 % interval {100 * low + 0.0:.1f} to {100 * high + 0.0:.1f})."
    )


def _risks(learnt: Learnt) -> list[str]:
    """The risk at some coverages, in words."""
    told = []
    for wanted in _COVERAGES:
        point = next((one for one in learnt.risk_coverage if one.coverage >= wanted - 1e-9), learnt.risk_coverage[-1])
        words = f"{point.risk:.0%} of {point.coverage:.0%}"
        if words not in told:
            told.append(words)
    return told
