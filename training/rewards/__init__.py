"""Rewards of GRPO-SIF: format, answer, grounding and depth, as pure functions of a batch of completions.

Each is called as TRL calls a reward, `f(prompts=…, completions=…, **columns) -> list[float]`, where a column is a list
with an entry a completion: `answer` (text), `options` (texts, or None), `boxes` (normalised xyxy), `depth` (`DepthMap`
or an (H, W) array, 0 near, 1 far; None where the policy is not asked for depths). Nothing is read from disk, nothing is
printed, and no completion, whatever its text, makes them raise.

The functions here are the robust forms: a completion that is not a trace by the strict parser earns nothing, and where
a trace ends up is what counts. `sifthinker.training.rewards.published` has the published forms under the same names,
loopholes included. `AnswerReward` adds to the answer what needs a memory or a server: the progress bonus and a judge.
"""

from __future__ import annotations

from sifthinker.training.rewards.answer import AnswerReward, answer_reward
from sifthinker.training.rewards.depth import depth_reward
from sifthinker.training.rewards.format import format_reward
from sifthinker.training.rewards.grounding import grounding_reward
from sifthinker.training.rewards.progress import ProgressMemory, fill_failed

__all__ = [
    "AnswerReward",
    "ProgressMemory",
    "answer_reward",
    "depth_reward",
    "fill_failed",
    "format_reward",
    "grounding_reward",
]
