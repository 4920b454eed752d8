"""One question about every image of a folder, several at a time; the answers as CSV, with a line for what failed.

python examples/batch.py
python examples/batch.py photos "What does the sign say?" openai:Qwen/Qwen3-VL-4B-Instruct@http://localhost:8000/v1
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from sifthinker.agent import create_focus_agent, question_message
from sifthinker.nodes.images import load_image
from sifthinker.policy.errors import ImageError

IMAGES = Path(__file__).parent / "images"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def main(
    folder: str = str(IMAGES), question: str = "What color is the nearest object?", policy: str = "embedded"
) -> None:
    agent = create_focus_agent(policy)
    table = csv.writer(sys.stdout)
    table.writerow(["image", "answer", "steps", "seconds", "problem"])
    paths, asked = [], []
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            image = agent.context.images.put(load_image(path).image)
        except ImageError as error:
            table.writerow([path.name, "", "", "", str(error)])
            continue
        paths.append(path)
        asked.append({"messages": [question_message(question, image=image)]})

    # A server answers many at once; a model in this process shares its forward passes among them.
    outputs = agent.batch(asked, {"max_concurrency": 8}, return_exceptions=True)
    for path, output in zip(paths, outputs, strict=True):
        if isinstance(output, Exception):
            table.writerow([path.name, "", "", "", str(output)])
            continue
        result = output["result"]
        problem = " ".join(result["warnings"])
        table.writerow([path.name, result["answer"], len(result["steps"]), f"{result['seconds']:.1f}", problem])


if __name__ == "__main__":
    main(*sys.argv[1:])
