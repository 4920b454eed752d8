"""What a comparison shows, in sentences: only what its numbers say, with how sure they are."""

from __future__ import annotations

from collections.abc import Mapping

from sifthinker.training.compare.faithfulness import Faithfulness
from sifthinker.training.compare.statistics import Interval
from sifthinker.training.compare.summary import Against, ModeScore, PolicyScores
from sifthinker.training.compare.words import percent, points, probability, share

_CHANGES = {"mean": "painted over", "blur": "blurred", "recolour": "recoloured or relabelled"}


def findings(scores: PolicyScores) -> list[str]:
    """A sentence or two for each mode, for the controls and for each change of the picture."""
    told = [_mode(name, score, scores.modes.get("direct")) for name, score in scores.modes.items()]
    asked = {name: score for name, score in scores.controls.items() if score.n}
    if asked and "tools" in scores.modes:
        told.append(_controls(asked, scores.modes["tools"]))
    for mode, kinds in scores.faithfulness.items():
        told += [_change(mode, kind, one) for kind, one in kinds.items() if one.n]
    return told


def _mode(name: str, score: ModeScore, direct: ModeScore | None) -> str:
    if score.accuracy is None:
        return f"{name.capitalize()} was asked nothing."
    start = f"{name.capitalize()} answers {percent(score.accuracy.value)} of {score.n:,} rightly"
    cut = f" {score.out_of_time:,} of these runs were cut short by a time budget." if score.out_of_time else ""
    if score.against_direct is None or direct is None:
        return f"{start} ({_between(score.accuracy)}).{cut}"
    return f"{start}: {_gain(score.against_direct)} against direct{_price(score, direct)}.{cut}"


def _price(score: ModeScore, direct: ModeScore) -> str:
    """How many times the baseline's costs; nothing where one of them answered nothing at all."""
    mine, its = tokens(score), tokens(direct)
    if mine is None or its is None or score.images is None or direct.images is None:
        return ""
    times = mine / max(its, 1e-9), score.images / max(direct.images, 1e-9)
    return f", at {times[0]:.1f} times its tokens and {times[1]:.1f} times its images"


def tokens(score: ModeScore) -> float | None:
    """Of a question, in and out."""
    return None if score.tokens_in is None or score.tokens_out is None else score.tokens_in + score.tokens_out


def _gain(against: Against) -> str:
    interval, p = against.difference, probability(against.test.p)
    sure = "" if interval.low > 0 or interval.high < 0 else ", which may be chance"
    said = p if p.startswith("<") else f"= {p}"
    between = f"95 % interval {points(interval.low)} to {points(interval.high)}"
    return f"{points(interval.value)} points ({between}, p {said}{sure})"


def _controls(controls: Mapping[str, ModeScore], tools: ModeScore) -> str:
    given = ", ".join(f"{_share(score)} with {name} boxes{_on_some(score)}" for name, score in controls.items())
    return f"In place of its own looking ({_share(tools)}), tools answers {given}."


def _share(score: ModeScore) -> str:
    return share(None if score.accuracy is None else score.accuracy.value)


def _on_some(score: ModeScore) -> str:
    """Where a control could not be asked everything: of how many, and how it fares on these against its own looking."""
    if not score.skipped or score.against_tools is None:
        return ""
    gain = points(score.against_tools.difference.value)
    return f" (of the {score.n:,} that could be asked: {gain} points against its own looking on these)"


def _change(mode: str, kind: str, one: Faithfulness) -> str:
    times = "" if one.ratio is None else f", {one.ratio:.1f} times as often"
    follows = ""
    if one.follows is not None:
        follows = (
            f" Where the object that decides the question was changed, {percent(one.follows.after)} of "
            f"{one.follows.n} answers were the new right one ({percent(one.follows.before)} were right before)."
        )
    return (
        f"When the region that {mode} cites is {_CHANGES.get(kind, kind)}, {percent(one.cited.value)} of {one.n:,} "
        f"answers change; {percent(one.elsewhere.value)} when another of equal size is{times}.{follows}"
    )


def _between(interval: Interval) -> str:
    return f"95 % interval {percent(interval.low)} to {percent(interval.high)}"
