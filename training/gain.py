"""What a training gained: two score files of `sifthinker train score --json`, question by question.

The same questions were asked before and after, so what counts is how each fared: differences are paired, questions are
drawn anew (bootstrap), and the answers to one question under several seeds are drawn together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from sifthinker.policy.errors import UsageError
from sifthinker.training.compare.statistics import Interval, PairedTest, bootstrap, paired_test
from sifthinker.training.evaluate import Scored

MEASURES = ("accuracy", "hiou", "valid", "depth_error", "tokens")


class Change(BaseModel):
    """A mean before and after, and the paired difference with its 95 % interval."""

    before: float
    after: float
    difference: Interval


class Gain(BaseModel):
    """What a training gained in one mode."""

    mode: str
    temperature: float = Field(default=0.0, description="At which all were asked; 0 is greedy.")
    questions: int
    answers: int = Field(description="Of all seeds.")
    measures: dict[str, Change]
    families: dict[str, Change] = Field(description="Accuracy by family.")
    test: PairedTest = Field(description="Whether accuracy changed at all (McNemar's, by question).")

    def meets(self, *, points: float = 0.03, lost: float = 0.02) -> tuple[bool, str]:
        """Whether it is a gain: accuracy or HIoU up by `points` with an interval above zero, no family down by more.

        Args:
            points: by which one of the two must have risen.
            lost: by which no family's accuracy may have fallen.

        Returns:
            the verdict, and why in words.
        """
        risen = [
            name
            for name in ("accuracy", "hiou")
            if self.measures[name].difference.value >= points and self.measures[name].difference.low > 0
        ]
        fallen = [name for name, change in self.families.items() if change.difference.value < -lost]
        if not risen:
            return False, f"neither accuracy nor HIoU rose by {points:g} with an interval above zero"
        said = f"{' and '.join(risen)} rose by {points:g} or more, with an interval above zero"
        if fallen:
            return False, f"{said}, but accuracy fell by more than {lost:g} in {', '.join(fallen)}"
        return True, f"{said}, and no family fell by more than {lost:g}"


def gains(pairs: Sequence[tuple[Path, Path]], *, modes: Sequence[str] | None = None, seed: int = 0) -> list[Gain]:
    """What was gained in each mode.

    Args:
        pairs: score files before and after; several pairs (other seeds) are put together.
        modes: which; by default all that every file has.
        seed: of the draws.

    Raises:
        UsageError: a file that is none, files of different questions or temperatures, a pair of different depths or
            seeds, or a mode that is missing.
    """
    files = [(_read(before), _read(after)) for before, after in pairs]
    temperatures = sorted({told.temperature for pair in files for told in pair})
    if len(temperatures) > 1:
        said = " and ".join(f"{temperature:g}" for temperature in temperatures)
        raise UsageError(f"The files are of temperatures {said}: one changes the scores as a training does.")
    for before, after in files:
        for name, first, second in (("depth", before.depth, after.depth), ("seed", before.seed, after.seed)):
            if None not in (first, second) and first != second:
                raise UsageError(
                    f"The files of a pair are of {name} {first} and {second}: that changes scores as training does."
                )
    read = [(before.modes, after.modes) for before, after in files]
    common = [mode for mode in read[0][0] if all(mode in scores for pair in read for scores in pair)]
    missing = sorted(set(modes or ()) - set(common))
    if missing or not common:
        raise UsageError(
            f"Expected scores in mode {', '.join(missing) or 'any'} in all files; in all there is: {common}."
        )
    return [_gain(mode, temperatures[0], [(b[mode], a[mode]) for b, a in read], seed) for mode in modes or common]


def _gain(
    mode: str, temperature: float, pairs: Sequence[tuple[dict[str, Scored], dict[str, Scored]]], seed: int
) -> Gain:
    rows: list[tuple[Scored, Scored]] = []
    for before, after in pairs:
        if set(before) != set(after):
            odd = sorted(set(before) ^ set(after))[:3]
            raise UsageError(f"The files are not of the same questions: {', '.join(odd)} … is in one of them only.")
        rows += [(before[name], after[name]) for name in before]
    groups = [before.id for before, _ in rows]
    values = {name: np.array([[_of(b, name), _of(a, name)] for b, a in rows]) for name in MEASURES}  # (N, 2)
    told = np.isfinite(values["depth_error"]).all(1)  # where both said a depth
    measures: dict[str, Change] = {}
    for name, pair in values.items():
        keep = told if name == "depth_error" else np.ones(len(rows), dtype=bool)
        if keep.any():
            kept = [group for group, use in zip(groups, keep, strict=True) if use]
            measures[name] = _change(pair[keep], kept, seed, most=np.inf if name == "tokens" else 1.0)
    families: dict[str, Change] = {}
    for family in sorted({before.family for before, _ in rows}):
        keep = np.array([before.family == family for before, _ in rows])
        kept = [group for group, use in zip(groups, keep, strict=True) if use]
        families[family] = _change(values["accuracy"][keep], kept, seed)
    return Gain(
        mode=mode,
        temperature=temperature,
        questions=len(set(groups)),
        answers=len(rows),
        measures=measures,
        families=families,
        test=paired_test([a.right for _, a in rows], [b.right for b, _ in rows], groups),
    )


def _change(pair: Any, groups: Sequence[str], seed: int, *, most: float = 1.0) -> Change:
    """The change of a measure: values before and after (N, 2), each from 0 to `most`."""
    before, after = pair.mean(0)
    (difference,) = bootstrap(pair[:, 1:] - pair[:, :1], groups, least=-most, most=most, seed=seed)
    return Change(before=before, after=after, difference=difference)


def _of(scored: Scored, name: str) -> float:
    if name == "accuracy":
        return float(scored.right)
    value = getattr(scored, name)
    return float("nan") if value is None else float(value)


class _ScoreFile(NamedTuple):
    modes: dict[str, dict[str, Scored]]
    """The answers by mode and question."""
    temperature: float
    depth: str | None
    """Where it was measured and shown from; None: an older file does not say."""
    seed: int | None
    """Of the options' order, and of what was sampled."""


def _read(path: Path) -> _ScoreFile:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        modes = {
            mode: {one["id"]: Scored.model_validate(one) for one in kept["answers"]}
            for mode, kept in told["modes"].items()
        }
        return _ScoreFile(modes, float(told.get("temperature", 0.0)), told.get("depth"), told.get("seed"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UsageError(f"{path} is not what `sifthinker train score --json` writes.") from error
