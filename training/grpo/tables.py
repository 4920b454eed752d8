"""What a policy said during training, for reading: a table of completions as HTML and JSONL, and the trajectory.

    rollouts/rollouts.jsonl         a line for each completion of a table
    rollouts/step-000025.html       image with the boxes drawn over it, text, each reward and why
    trajectory.jsonl                a line for each round: which samples were asked, and a digest of what was said

Everything that a policy or a data set says is escaped; the pages load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sifthinker.agent.pictures import step_colour
from sifthinker.nodes.depth import DepthMap
from sifthinker.policy.files import write_whole
from sifthinker.policy.trace import parse_lenient
from sifthinker.training.rewards.explain import RewardRecord, explained

_NAMES = {f"{name}_reward": name for name in ("format", "answer", "grounding", "depth")}


@dataclass
class Rollouts:
    """What one round of sampling came to, of one process.

    Attributes:
        step: the step that learns from it, from 1.
        rows: the samples, a row for each completion.
        completions: their texts.
        ids: their tokens.
        rewards: by name, None where a reward failed.
        previous: what each sample had earned in the mean for its answers at its last visit; empty: nothing is known.
    """

    step: int
    rows: Sequence[dict[str, Any]]
    completions: Sequence[str]
    ids: Sequence[Sequence[int]]
    rewards: dict[str, list[float | None]]
    previous: Sequence[float | None] = ()


@dataclass
class _Said:
    """A completion of any process."""

    id: str
    text: str
    rewards: dict[str, float | None]
    previous: float | None


@dataclass
class _Box:
    x: float
    y: float
    width: float
    height: float
    colour: str
    label: str


@dataclass
class _Row:
    text: str
    total: float
    advantage: float
    rewards: list[tuple[str, str, list[str]]]
    boxes: list[_Box]


@dataclass
class _Group:
    id: str
    question: str
    options: list[str]
    answer: str
    picture: str
    size: tuple[int, int]
    truth: list[_Box]
    rows: list[_Row] = field(default_factory=list)


class RolloutTables:
    """Writes a table every so many steps, and the trajectory of every round.

    Args:
        run: the run's folder.
        every: steps between two tables; 0: none. Where several steps learn from a round, its first one counts.
        most: completions of a table, rounded up to whole groups.
        form: of the rewards whose reasons are told.
        weights: of the rewards by name.
        judged: whether a judge scores the free answers.
        gather: brings what all processes say together; every process calls it.
        writes: whether this process writes.
    """

    def __init__(
        self,
        run: Path,
        *,
        every: int,
        most: int,
        form: str,
        weights: dict[str, float],
        gather: Callable[[list[Any]], list[Any]],
        judged: bool = False,
        writes: bool = True,
    ) -> None:
        self.run, self.every, self.most = run, every, most
        self.form, self.weights = form, weights
        self.gather = gather
        self.judged = judged
        self.writes = writes
        self._last: int | None = None

    def __call__(self, rollouts: Rollouts) -> None:
        """Take in a round of sampling."""
        said = hashlib.sha256(json.dumps([list(map(int, ids)) for ids in rollouts.ids]).encode()).hexdigest()[:16]
        told = self.gather([([str(row["id"]) for row in rollouts.rows], said)])
        due = self._is_due(rollouts.step)
        everyone: list[_Said] = self.gather(_said(rollouts)) if due else []
        if not self.writes:
            return
        ids = [name for some, _ in told for name in some]
        line = {"step": rollouts.step, "ids": ids, "said": [digest for _, digest in told]}
        append(self.run / "trajectory.jsonl", [line])
        if due:
            self._write(rollouts, everyone)

    def _is_due(self, step: int) -> bool:
        """Whether a table's step has come since the last round; rounds do not come at every step."""
        before, self._last = step - 1 if self._last is None else self._last, step
        return bool(self.every) and step // self.every > before // self.every

    def _write(self, rollouts: Rollouts, everyone: Sequence[_Said]) -> None:
        """Write a table of the groups that this process has a part in, whole ones."""
        folder = self.run / "rollouts"
        folder.mkdir(exist_ok=True)
        groups: list[_Group] = []
        lines: list[dict[str, Any]] = []
        for name, row in {str(row["id"]): row for row in rollouts.rows}.items():
            if len(lines) >= self.most:
                break
            members = [one for one in everyone if one.id == name]
            totals = [self._total(one) for one in members]
            group = _group(row)
            groups.append(group)
            depth = _depth_file(row.get("depth"), folder)
            for one, total in zip(members, totals, strict=True):
                told = self._row(row, one, total, total - _mean(totals))
                group.rows.append(told)
                lines.append(
                    {
                        "step": rollouts.step,
                        "id": name,
                        "question": row["question"],
                        "options": row["options"],
                        "answer": row["answer"],
                        "boxes": row["boxes"],
                        "depth": depth,
                        "previous": one.previous,
                        "completion": one.text,
                        "rewards": one.rewards,
                        "why": {reward: why for reward, _, why in told.rewards},
                        "total": told.total,
                        "above_group": told.advantage,
                    }
                )
        append(folder / "rollouts.jsonl", lines)
        page = _page(rollouts.step, groups, self.form)
        write_whole(
            folder / f"step-{rollouts.step:06d}.html",
            lambda part: part.write_text(page, encoding="utf-8", errors="replace"),
        )

    def _total(self, said: _Said) -> float:
        return sum(self.weights.get(name, 1.0) * (value or 0.0) for name, value in said.rewards.items())

    def _row(self, row: dict[str, Any], said: _Said, total: float, advantage: float) -> _Row:
        record = RewardRecord(
            completion=said.text,
            answer=row["answer"],
            options=row["options"],
            boxes=row["boxes"],
            question=row["question"],
            previous=said.previous,
        )
        reasons = explained(record, row.get("depth"), name=said.id, judged=self.judged).rewards
        rewards = []
        for name, value in said.rewards.items():
            why = [] if name not in reasons else reasons[name].why
            if self.form == "published" and name in reasons:
                why = reasons[name].published_why or why
            if self.form == "random":
                why = ["drawn at random: a control"]
            rewards.append((name, "failed" if value is None else f"{value:.3f}", list(why)))
        trace, _ = parse_lenient(said.text)
        last = len(trace.steps) - 1
        boxes = [
            _box(
                box.bbox_2d,
                step_colour(number),
                str(number + 1) + (f" · {box.depth:g}" if number == last and box.depth is not None else ""),
            )
            for number, step in enumerate(trace.steps)
            for box in step.boxes
        ]
        return _Row(said.text, total, advantage, rewards, boxes)


def _said(rollouts: Rollouts) -> list[_Said]:
    previous = rollouts.previous or [None] * len(rollouts.rows)
    return [
        _Said(
            id=str(row["id"]),
            text=rollouts.completions[index],
            rewards={_NAMES.get(name, name): values[index] for name, values in rollouts.rewards.items()},
            previous=previous[index],
        )
        for index, row in enumerate(rollouts.rows)
    ]


def _depth_file(depth: DepthMap | None, folder: Path) -> str | None:
    """The depth of a sample beside the table, so that `sifthinker rewards explain` finds what the rewards saw."""
    if depth is None:
        return None
    path = folder / "depth" / f"{hashlib.sha256(depth.array.tobytes()).hexdigest()[:16]}.png"
    path.parent.mkdir(exist_ok=True)
    if not path.is_file():
        write_whole(path, depth.to_png16, on_disk=False)
    return path.relative_to(folder).as_posix()


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Add lines to a JSONL file, whole ones."""
    text = "".join(f"{json.dumps(line)}\n" for line in lines)  # ASCII, so that half a surrogate pair can stand in it
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _group(row: dict[str, Any]) -> _Group:
    image: Image.Image = row["images"][0]
    return _Group(
        id=str(row["id"]),
        question=row["question"],
        options=list(row["options"] or ()),
        answer=row["answer"],
        picture=_data_url(image),
        size=image.size,
        truth=[_box(box, "#ffffff", "") for box in row["boxes"]],
    )


def _box(xyxy: Any, colour: str, label: str) -> _Box:
    x1, y1, x2, y2 = (float(number) for number in xyxy)
    return _Box(
        round(x1 * 1000, 1), round(y1 * 1000, 1), round((x2 - x1) * 1000, 1), round((y2 - y1) * 1000, 1), colour, label
    )


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    small = image.convert("RGB")
    small.thumbnail((800, 800))
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _page(step: int, groups: list[_Group], form: str) -> str:
    environment = Environment(
        loader=PackageLoader("sifthinker.training.grpo"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("rollouts.html").render(step=step, groups=groups, form=form)
