"""Benchmarks made up in the published schemas, a few rows each: no data of theirs is copied."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sifthinker.training.compare.data import Judged, Question, QuestionSet, Said

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(mark: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A PNG of noise: the same for the same mark and size."""
    cells = np.random.default_rng([mark, *size]).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def stored(mark: int, size: tuple[int, int] = (60, 40)) -> dict[str, Any]:
    """A picture as the `datasets` library stores it."""
    return {"bytes": picture(mark, size), "path": f"{mark}.png"}


def table(path: Path, rows: Sequence[Mapping[str, Any]], **types: pa.DataType) -> Path:
    """Rows as a Parquet file of small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    arrays = {name: pa.array(values, type=types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=2)
    return path


def lines(path: Path, rows: Sequence[Mapping[str, Any]], *, array: bool = False) -> Path:
    """Rows as JSON lines, or as one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def image_file(path: Path, mark: int, size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(mark, size))
    return path


def judged(data: QuestionSet, answers: Mapping[str, str | Said], seeds: Sequence[int] = (0,)) -> list[Judged]:
    """All questions of a set with these answers by id; no answer for the others."""

    def one(question: Question, seed: int) -> Judged:
        given = answers.get(question.id, "")
        said = given if isinstance(given, Said) else Said(answer=given)
        return Judged(question, said, data.right(question, said), seed)

    return [one(question, seed) for question in data.questions() for seed in seeds]


# ── one maker for each benchmark ──


def vstar_folder(root: Path) -> Path:
    rows = {
        "direct_attributes/sa_1": ("What is the color of the scarf?", ["red", "blue", "green", "white"], 1),
        "direct_attributes/sa_2": ("What is the material of the bag?", ["leather", "straw", "paper", "wool"], 1),
        "relative_position/sa_3": ("Is the dog left or right of the cart?", ["left", "right"], 2),
    }
    for index, (name, (asked, options, boxes)) in enumerate(rows.items()):
        image_file(root / f"{name}.jpg", index, (80, 60))
        box = [[10, 12, 20, 6], [50, 30, 16, 12]][:boxes]
        told = {"target_object": ["a", "b"][:boxes], "bbox": box, "question": asked, "options": options}
        (root / f"{name}.json").write_text(json.dumps(told, indent=1))
    return root


def vstar_rows() -> list[dict[str, Any]]:
    text = "What is the color of the scarf?\n(A) red\n(B) blue\n(C) green\n(D) white\n"
    end = "Answer with the option's letter from the given choices directly."
    return [
        {"image": "direct_attributes/sa_1.jpg", "text": text + end, "category": "direct_attributes", "label": "B",
         "question_id": "0"},
        {"image": "relative_position/sa_3.jpg", "text": f"Left or right?\n(A) left\n(B) right\n{end}",
         "category": "relative_position", "label": "A", "question_id": 1},
    ]  # fmt: skip


def hrbench_rows() -> list[dict[str, Any]]:
    """Two questions in four cycles of their options."""
    rows = []
    for question, (kind, options) in enumerate([("single", ["1", "2", "3", "4"]), ("cross", ["on", "in", "by", "at"])]):
        for cycle in range(4):
            turned = options[cycle:] + options[:cycle]
            answer = "ABCD"[turned.index(options[1])]
            rows.append(
                {"index": 4 * question + cycle, "question": f"Question {question}?", "answer": answer, "category": kind,
                 **dict(zip("ABCD", turned, strict=True)), "cycle_category": cycle,
                 "image": base64.b64encode(picture(question, (90, 60))).decode()}
            )  # fmt: skip
    return rows


def cvbench_rows() -> list[dict[str, Any]]:
    told = [
        ("2D", "Count", "ADE20K", "How many lamps are there?", ["2", "3", "1", "0"], "(B)"),
        ("2D", "Relation", "COCO", "Where is the cup?", ["above", "below"], "(A)"),
        ("3D", "Depth", "Omni3D", "Which is closer?", ["chair", "desk"], "(B)"),
        ("3D", "Distance", "Omni3D", "Which is nearer to the bed?", ["chair", "desk"], "(A)"),
    ]
    return [
        {"idx": index, "type": kind, "task": task, "image": stored(index), "question": asked, "choices": choices,
         "answer": answer, "prompt": f"{asked} Select from the following choices.", "filename": f"{kind}/{index}.png",
         "source": source, "bbox": None}
        for index, (kind, task, source, asked, choices, answer) in enumerate(told)
    ]  # fmt: skip


def sat_rows() -> list[dict[str, Any]]:
    return [
        {"image_bytes": [stored(1, (60, 40))], "question": "Is the lamp left of the sofa?", "answers": ["yes", "no"],
         "question_type": "spatial", "correct_answer": "no"},
        {"image_bytes": [stored(2, (60, 40)), stored(3, (30, 80))], "question": "How did the camera move?",
         "answers": ["rotated left", "rotated right"], "question_type": "ego_move", "correct_answer": "rotated left"},
    ]  # fmt: skip


def spatialbench_folder(root: Path) -> Path:
    tasks = {
        "positional": [("Which is nearer, the cup or the jar?", "cup"), ("Is it above or below?", "above")],
        "existence": [("Is there a tap?", "Yes"), ("Is there no tap?", "No")],
        "counting": [("How many bowls?", "4"), ("How many spoons?", "2")],
        "reach": [("Does it touch?", "Yes"), ("Does it not touch?", "No")],
        "size": [("Is it larger?", "No"), ("Is it smaller?", "Yes")],
    }
    for task, rows in tasks.items():
        told: list[dict[str, Any]] = []
        for index, (asked, answer) in enumerate(rows):
            image_file(root / task / f"{index}.jpg", index)
            name: Any = f"{task}/{index}.jpg"
            told.append(
                {"image": [name] if index else name, "question": asked, "answer": answer, "id": f"{task}_{index}"}
            )
        lines(root / f"{task}.json", told, array=True)
    return root


def blink_rows(task: str) -> list[dict[str, Any]]:
    choices = ["A is closer", "B is closer"] if task == "Relative_Depth" else ["yes", "no"]
    return [
        {"idx": f"val_{task}_{index}", "question": f"Question {index}?", "sub_task": task, "image_1": stored(index),
         "image_2": None, "image_3": None, "image_4": None, "choices": choices, "answer": answer,
         "prompt": "…", "explanation": ""}
        for index, answer in enumerate(["(A)", "(B)", "(A)"])
    ]  # fmt: skip


BLINK_TYPES = {f"image_{number}": IMAGE for number in range(1, 5)}


def refcoco_rows() -> list[dict[str, Any]]:
    return [
        {"question_id": "42", "image": stored(1, (100, 80)), "question": "Please describe the marked region.",
         "answer": ["man in red", "left man"], "segmentation": [1.0, 2.0], "bbox": [10.0, 20.0, 40.0, 30.0],
         "iscrowd": 0, "file_name": "COCO_1.jpg"},
        {"question_id": "43", "image": stored(2, (100, 80)), "question": "Please describe the marked region.",
         "answer": ["the kite"], "segmentation": [1.0], "bbox": [0.0, 0.0, 100.0, 40.0], "iscrowd": 0,
         "file_name": "COCO_2.jpg"},
    ]  # fmt: skip


def viscot_rows(dataset: str = "gqa") -> list[dict[str, Any]]:
    """Boxes in the padded square of a picture of 100 × 60."""
    asked = "Please provide the bounding box coordinate of the region that can help you answer the question better."

    def row(number: int, question: str, box: str, answer: str) -> dict[str, Any]:
        return {
            "dataset": dataset, "split": "val", "question_id": number,
            "image": [f"cot/{dataset}/{number}.jpg", f"cot/{dataset}/{number}.jpg###[20, 10, 60, 40]"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{question} {asked}"}, {"from": "gpt", "value": box},
                {"from": "human", "value": "<image>"}, {"from": "gpt", "value": answer},
            ],
        }  # fmt: skip

    return [
        row(1, "Is it red?", "[0.200, 0.300, 0.600, 0.600]", "Yes"),
        row(2, "What is it?", "[0.1, 0.3, 0.5, 0.6]", "a cart"),
    ]
