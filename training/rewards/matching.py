"""Is an answer the right one? What can be verified without a judge: a choice, yes or no, a number, a text.

What kind of answer it is follows from the truth and its options, never from what was said.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

_OPENING, _CLOSING = " \"'`“”‘’«»([{*_", " \"'`“”‘’«»)]}*_.,;:!?"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ARTICLE = re.compile(r"^(?:a|an|the) (?=[^\W\d_]{2})")  # before a word, not before a letter: "a b" names two options
_LABEL = re.compile(r"\(?([a-z])[).:] ?(.*)", re.DOTALL)
_NUMBER = re.compile(r"([-+]?)\$?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)%?")
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_YES_NO = {"yes": True, "no": False, "true": True, "false": False}
_LEAST_SIMILARITY = 0.5
"""Of ANLS: below it a text earns nothing."""


class AnswerKind(StrEnum):
    """What decides whether an answer is right."""

    CHOICE = "choice"
    """It names one of the options, and that is the right one."""
    YES_NO = "yes/no"
    NUMBER = "number"
    TEXT = "text"
    """It is the right text; a similar one has its similarity (ANLS). The robust reward looks closer, see `wording`."""


@dataclass(frozen=True)
class Match:
    """What an answer is worth, 0 to 1, and why."""

    score: float
    kind: AnswerKind
    reason: str
    settled: bool = True
    """False where a text is not the right one word for word: a judge may know that it means the same."""


def match(said: str, truth: str, options: Sequence[str] | None = None) -> Match:
    """What an answer is worth.

    Args:
        said: the answer as it was given.
        truth: the right answer.
        options: the answers to choose from. One must be named, by its words or by its label, and nothing besides.
    """
    longest = max([len(truth), *(len(option) for option in options or ())])
    if len(said) > 4 * longest + 256:
        return Match(0.0, _kind(truth, options), f"{len(said)} characters are more than a right answer has")
    if options:
        return _choice(said, truth, options)
    right, given = normalise(truth), normalise(said)
    kind = _kind(truth, None)
    if kind is AnswerKind.YES_NO:
        return Match(float(_YES_NO.get(given) is _YES_NO[right]), kind, f"{given!r}, right is {right!r}")
    if kind is AnswerKind.NUMBER:
        return Match(float(number(given) == number(right)), kind, f"{given!r}, right is {right!r}")
    if given == right:
        return Match(1.0, kind, f"{given!r} is right")
    similar = anls(given, right)
    return Match(similar, kind, f"{given!r} against {right!r}: ANLS {similar:.2f}", settled=False)


def tagged_answer(answer: str, text: str) -> str:
    """The answer that counts, of the one that the agent read in a text: it stands in its tags, once; else empty.

    The agent's own reading is more lenient, for people.
    """
    tagged = {normalise(found) for found in _TAGGED.findall(text) if found.strip()}
    return answer if len(tagged) == 1 else ""


def normalise(text: str) -> str:
    """A text for comparing: case folded, white space collapsed, without quotes, end punctuation and leading article."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    trimmed = _ARTICLE.sub("", folded.lstrip(_OPENING).rstrip(_CLOSING))
    return trimmed or folded


def number(text: str) -> Fraction | None:
    """The number that a normalised text is, in ASCII digits or as a word up to twenty; None where it is none."""
    if text in _WORDS:
        return Fraction(_WORDS.index(text))
    found = _NUMBER.fullmatch(text)
    if found is None or not found[2]:
        return None
    return Fraction((found[1] + found[2]).replace(",", ""))


def anls(said: str, truth: str) -> float:
    """Normalised Levenshtein similarity of two texts, 0 where they have less than half in common."""
    longest = max(len(said), len(truth))
    if longest == 0:
        return 1.0
    if abs(len(said) - len(truth)) > longest * (1 - _LEAST_SIMILARITY):
        return 0.0
    similarity = 1 - levenshtein(said, truth) / longest
    return similarity if similarity >= _LEAST_SIMILARITY else 0.0


def levenshtein(a: str, b: str) -> int:
    """Edits (insertions, deletions, replacements) from one text to another.

    A column of the usual table is kept as two integers, one bit a row: where it grows by one downwards, and where it
    falls (Myers 1999, in Hyyrö's form for whole texts). So a column costs a few operations on integers.
    """
    if not a or not b:
        return len(a) + len(b)
    rows_of: dict[str, int] = {}
    for row, character in enumerate(a):
        rows_of[character] = rows_of.get(character, 0) | 1 << row
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    grows, falls, distance = every, 0, len(a)
    for character in b:
        same = rows_of.get(character, 0)
        no_dearer = (((same & grows) + grows) ^ grows) | same | falls  # rows whose diagonal step is free
        across_grows = falls | ~(no_dearer | grows) & every
        across_falls = grows & no_dearer
        distance += bool(across_grows & last) - bool(across_falls & last)
        across_grows, across_falls = across_grows << 1 | 1, across_falls << 1
        grows = (across_falls | ~(no_dearer | across_grows)) & every
        falls = across_grows & no_dearer & every
    return distance


def _kind(truth: str, options: Sequence[str] | None) -> AnswerKind:
    if options:
        return AnswerKind.CHOICE
    right = normalise(truth)
    if right in _YES_NO:
        return AnswerKind.YES_NO
    return AnswerKind.TEXT if number(right) is None else AnswerKind.NUMBER


def _choice(said: str, truth: str, options: Sequence[str]) -> Match:
    names = _names(tuple(options), truth)
    given, right = normalise(said), normalise(truth)
    wanted, chosen = _named(right, names), _named(given, names)
    if wanted is None:  # the truth is none of the options: the data's fault, and the truth still is what counts
        return Match(float(given == right), AnswerKind.CHOICE, f"{given!r}, right is {right!r}, which is no option")
    if chosen is None:
        return Match(0.0, AnswerKind.CHOICE, f"{given!r} names no option")
    return Match(float(chosen == wanted), AnswerKind.CHOICE, f"option {chosen!r}, right is {wanted!r}")


def _named(text: str, names: Mapping[str, str | None]) -> str | None:
    """The option that a normalised text names: by what `_names` lists, or by label and words of the same option."""
    if text in names or not (labelled := _LABEL.fullmatch(text)):
        return names.get(text)
    by_label, by_words = names.get(labelled[1]), names.get(normalise(labelled[2]))
    return by_label if by_label == by_words else None


@lru_cache(maxsize=1024)
def _names(options: tuple[str, ...], truth: str) -> dict[str, str | None]:
    """What names an option -> that option normalised; None for what would name two.

    Its words do, and where the options carry labels ("(A) red", "B. blue") the label and the words alone. Where they
    carry none, their letters count only if the truth itself is given as a letter.
    """
    whole = [normalise(option) for option in options]
    names: dict[str, str | None] = {}
    found = [_LABEL.fullmatch(" ".join(option.casefold().split())) for option in options]
    letters = [chr(ord("a") + index) for index in range(min(len(options), 26))]
    if len(options) > 1 and [label[1] for label in found if label] == letters:
        words = [normalise(label[2]) for label in found if label]
        for key, option in [*zip(letters, whole, strict=True), *zip(words, whole, strict=True)]:
            names[key] = option if names.get(key, option) == option else None
    elif normalise(truth) in letters and normalise(truth) not in whole:
        names.update(zip(letters, whole, strict=False))
    names.update({option: option for option in whole})
    return names
