"""One question, one answer, and where the policy looked.

python examples/ask.py
python examples/ask.py photo.jpg "What does the sign say?" Qwen/Qwen3-VL-4B-Instruct
"""

from __future__ import annotations

import sys
from pathlib import Path

from sifthinker.agent import ask

IMAGES = Path(__file__).parent / "images"


def main(
    image: str = str(IMAGES / "blocks.png"),
    question: str = "Which is closer to the camera, the purple cylinder or the yellow cylinder?",
    policy: str = "embedded",
) -> None:
    result = ask(image, question, policy=policy)
    for number, step in enumerate(result.steps, 1):
        for box in step.boxes:
            print(f"{number}. {box.bbox_2d}  depth said {box.depth}, measured {box.measured_depth}")
        print(f"   {step.text}")
    print(f"Answer: {result.answer}")
    for warning in result.warnings:
        print(f"Note: {warning}")


if __name__ == "__main__":
    main(*sys.argv[1:])
