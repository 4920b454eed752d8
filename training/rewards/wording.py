"""Does a free text say what the right one says? Compared word for word, for the robust answer reward without a judge.

Similarity of letters alone (ANLS) pays a wrong text that is built like the right one: another number, the other side,
the sentence without its end. Here what decides must be the same, every word must be said, and only what the question
itself says may be left out or repeated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sifthinker.training.rewards.matching import levenshtein, normalise, number

_WORD = re.compile(r"(?:(?<!\S)-)?[0-9]+(?:[.,:/-][0-9]+)*|[^\W_]+")
_NEGATED = re.compile(r"n['’]t\b")
_OWNER = re.compile(r"['’]s\b")
_ENDING = re.compile(r"(?<=\w{3})(?:(?<=[sxzh])es|(?<!s)s|ed|ing)$")
_DIGIT = re.compile(r"[0-9]")
_SMALL = {
    "a", "an", "the", "is", "are", "was", "were", "be", "been", "am", "it", "its", "this", "that", "these",
    "those", "there", "here", "they", "he", "she", "of",
}  # fmt: skip
"""Words that may come and go."""
_DECIDING = {
    "yes", "no", "true", "false", "not", "never", "none", "nothing", "nobody", "neither", "nor", "without",
    "cannot", "or", "left", "right", "above", "below", "over", "under", "beneath", "underneath", "up", "down",
    "upper", "lower", "top", "bottom", "front", "behind", "back", "inside", "outside", "near", "far", "nearer",
    "farther", "further", "closer", "before", "after", "first", "last", "more", "less", "fewer", "larger",
    "smaller", "bigger", "taller", "shorter", "higher", "open", "closed",
}  # fmt: skip
"""Words that turn a text into its opposite, or into several answers: the same ones must be said, in the same order."""
_OFFERING = {"or", "which", "between", "either"}
"""Words of a question that offers a choice: what it says is then no word that may come and go."""
_LINKING = {"in", "on", "at", "to", "by", "with", "from"}
"""Words that lead up to a place or a thing: they may be left out of one text, but not exchanged."""
_ONE = re.compile(r"\bone\b")
_SINGLE = re.compile(r"\b(?:one|1)\b")
_LEAST = 0.5
"""Below it a text earns nothing, as with ANLS."""
_LONG, _LONGER = 6, 10
"""Letters of a word in which one slip, and two, are forgiven. In shorter words a slip is another word."""


def likeness(said: str, truth: str, question: str = "") -> tuple[float, str]:
    """What a text is worth beside the right one, 0 to 1, and why.

    0 where the numbers differ, yes or no, or a word that turns the meaning (left, behind, not, or, …), and where a word
    of the truth is missing. Words that the question says may be left out or repeated; but not where it offers a choice
    or says all of the truth, nor one in another's place. Each word too many costs its share of the truth's, half at
    least, a slip of typing in a long word its share of the letters.
    """
    said, truth = normalise(said), normalise(truth)
    given, right = _words(_without_one(said, truth)), _words(_without_one(truth, said))
    if (one := _deciding(given)) != (other := _deciding(right)):
        return 0.0, f"what decides is {_shown(one)}, right is {_shown(other)}"
    if not right or not given:
        return 0.0, "there are no words to compare"
    if "".join(given) == "".join(right):
        return 1.0, "the same but for spaces and points"
    given, right = _content(given), _content(right)
    if not (_LINKING & {*given} and _LINKING & {*right}):
        given, right = _unlinked(given), _unlinked(right)
    words = _words(question.casefold())
    asked = {_stem(word) for word in words}
    if _OFFERING & {*words}:
        if other := _beyond(given, right, asked):
            return 0.0, f"{_shown(other)} is of the others that the question offers"
        asked = set()
    elif all(_stem(word) in asked for word in right):
        asked = set()
    left_out, put_in = _beyond(right, given, asked), _beyond(given, right, asked)
    if left_out and put_in:
        return 0.0, f"{_shown(put_in)} stands in place of {_shown(left_out)}"
    given = [word for word in given if word not in put_in]
    right = [word for word in right if word not in left_out]
    rest, cost = iter(given), 0.0
    for word in right:
        slip = next((slip for slip in (_slip(other, word) for other in rest) if slip is not None), None)
        if slip is None:
            return 0.0, f"{word!r} is not said"
        cost += slip
    more = len(given) - len(right)
    score = 1 - cost / len(right) - more * max(1 / len(right), 0.5)
    told = f"all {len(right)} words are said, {more} besides, slips cost {cost:.2f}"
    return (score if score >= _LEAST else 0.0), told


def _words(text: str) -> list[str]:
    """The words of a case-folded text; numbers in one spelling, in digits or as words."""
    text = _OWNER.sub("", _NEGATED.sub(" not", text))
    return [_one_spelling(word) for word in _WORD.findall(text)]


def _one_spelling(word: str) -> str:
    value = number(word) if len(word) <= 40 else None
    return word if value is None else str(value)


def _content(words: Sequence[str]) -> list[str]:
    """The words that say something; all where none does."""
    return [word for word in words if word not in _SMALL] or list(words)


def _unlinked(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _LINKING] or list(words)


def _without_one(text: str, other: str) -> str:
    """A text without a "one" that stands for a thing ("the red one"): the other text counts none."""
    return text if _SINGLE.search(other) else _ONE.sub("", text)


def _deciding(words: Sequence[str]) -> list[str]:
    return [word for word in words if word in _DECIDING or _DIGIT.search(word)]


def _beyond(words: Sequence[str], others: Sequence[str], asked: set[str]) -> list[str]:
    """The words of the question that stand here and not in the other text."""
    stems = {_stem(other) for other in others}
    return [word for word in words if _stem(word) in asked - stems]


def _slip(said: str, right: str) -> float | None:
    """What a slip of typing in a word costs, 0 for none; None where it is another word."""
    if _stem(said) == _stem(right):
        return 0.0
    letters = max(len(said), len(right))
    allowed = 0 if letters < _LONG else 1 if letters < _LONGER else 2
    if abs(len(said) - len(right)) > allowed or said[0] != right[0]:  # in-, un-: not slips
        return None
    slips = levenshtein(said, right)
    return slips / letters if slips <= allowed else None


def _stem(word: str) -> str:
    """A word without the ending that its place in a sentence gives it: wears, wearing."""
    return _ENDING.sub("", word)


def _shown(words: Sequence[str]) -> str:
    return " ".join(words) or "nothing"
