"""One question about every image of a folder, several at a time; the answers as CSV, with a line for what failed.

python examples/batch.py
python examples/batch.py photos "What does the sign say?" openai:Qwen/Qwen3-VL-4B-Instruct@http://localhost:8000/v1
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from langchain_core.runnables import RunnableLambda

from sifthinker.agent import FocusResult, create_focus_agent
from sifthinker.policy.errors import SifthinkerError

IMAGES = Path(__file__).parent / "images"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def main(
    folder: str = str(IMAGES), question: str = "What color is the nearest object?", policy: str = "embedded"
) -> None:
    agent = create_focus_agent(policy)
    paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in SUFFIXES]

    def ask(path: Path) -> FocusResult | SifthinkerError:
        try:
            return agent.ask(question, image=path)  # opened when its turn comes: a folder may be larger than memory
        except SifthinkerError as error:
            return error

    table = csv.writer(sys.stdout)
    table.writerow(["image", "answer", "steps", "seconds", "problem"])
    # A server answers many at once; a model in this process shares its forward passes among them.
    for path, result in zip(paths, RunnableLambda(ask).batch(paths, {"max_concurrency": 8}), strict=True):
        if isinstance(result, SifthinkerError):
            table.writerow([path.name, "", "", "", str(result)])
            continue
        table.writerow(
            [path.name, result.answer, len(result.steps), f"{result.seconds:.1f}", " ".join(result.warnings)]
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
