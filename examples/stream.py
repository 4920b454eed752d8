"""The same, as it happens: typed events while the policy looks, then the result.

python examples/stream.py
"""

from __future__ import annotations

from pathlib import Path

from sifthinker.agent import FocusResult, ask_stream
from sifthinker.agent.events import AnswerGiven, AreaProposed, CropTaken, DepthMeasured, TextWritten

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    for event in ask_stream(IMAGES / "signs.png", "What does the sign on the red cylinder say?"):
        match event:
            case AreaProposed(step=step, boxes=boxes):
                print(f"step {step}: looks at {[box.bbox_2d for box in boxes]}")
            case DepthMeasured(depth=depth):
                print(f"        {depth:.2f} away, from 0, near, to 1, far")
            case CropTaken(size=(width, height)):
                print(f"        a crop of {width} × {height} pixels")  # event.picture is the crop itself
            case TextWritten(text=text):
                print(f"        {text}")
            case AnswerGiven(answer=answer):
                print(f"answer: {answer}")
            case FocusResult(tokens=tokens, seconds=seconds):
                print(f"{tokens.completion} tokens, {tokens.images} images, {seconds:.1f} s")


if __name__ == "__main__":
    main()
