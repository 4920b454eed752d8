"""Answer: verified, judged where it must be, with a bonus for progress; a failed judge gives no advantage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.policy import prompts
from sifthinker.policy.errors import UsageError
from sifthinker.training.rewards import AnswerReward, ProgressMemory, answer_reward, fill_failed
from sifthinker.training.rewards.answer import Case, questions, sample_keys
from sifthinker.training.rewards.matching import AnswerKind, anls, levenshtein, match
from sifthinker.training.rewards.wording import likeness

Said = Callable[..., str]
BOX = (0.1, 0.1, 0.5, 0.5, 0.4)
CUBES = ["red cube", "blue cube", "green cube"]


# What is right


@pytest.mark.parametrize(
    ("said", "truth", "options", "score"),
    [
        ("red cube", "red cube", CUBES, 1.0),
        ("Red  Cube.", "red cube", CUBES, 1.0),
        ("the red cube", "red cube", CUBES, 1.0),
        ("“red cube”", "red cube", CUBES, 1.0),
        ("blue cube", "red cube", CUBES, 0.0),
        ("red", "red cube", CUBES, 0.0),
        ("a red cube and a blue cube", "red cube", CUBES, 0.0),
        ("red cube, blue cube", "red cube", CUBES, 0.0),
        ("not the red cube", "red cube", CUBES, 0.0),
        ("a", "red cube", CUBES, 0.0),  # no letters were shown
        ("A", "A", CUBES, 1.0),
        ("(a) red cube", "A", CUBES, 1.0),
        ("red cube", "(A)", CUBES, 1.0),
        ("B", "blue", ["(A) red", "(B) blue"], 1.0),
        ("(B)", "(B) blue", ["(A) red", "(B) blue"], 1.0),
        ("B. blue", "(B) blue", ["(A) red", "(B) blue"], 1.0),
        ("blue", "B", ["A. red", "B. blue"], 1.0),
        ("A. blue", "B", ["A. red", "B. blue"], 0.0),
        ("A B", "B", ["A. red", "B. blue"], 0.0),
        ("A B. blue", "B", ["A. red", "B. blue"], 0.0),
        ("E", "E", ["A", "E", "C", "H"], 1.0),  # signs of the block world: options that are letters
        ("A", "E", ["A", "E", "C", "H"], 0.0),
        ("B", "E", ["A", "E", "C", "H"], 0.0),  # the second option's place is not its name
        ("3", "3", ["1", "2", "3", "4"], 1.0),
        ("yes", "yes", ["yes", "no"], 1.0),
        ("purple", "purple", CUBES, 1.0),  # a truth outside the options is still the truth
        ("red cube", "purple", CUBES, 0.0),
    ],
)
def test_a_choice_is_one_option_exactly(said: str, truth: str, options: list[str], score: float) -> None:
    found = match(said, truth, options)
    assert (found.score, found.kind, found.settled) == (score, AnswerKind.CHOICE, True)


@pytest.mark.parametrize(
    ("said", "truth", "score", "kind"),
    [
        ("Yes.", "yes", 1.0, "yes/no"),
        ("true", "Yes", 1.0, "yes/no"),
        ("no", "yes", 0.0, "yes/no"),
        ("yes and no", "yes", 0.0, "yes/no"),
        ("3", "3", 1.0, "number"),
        ("three", "3", 1.0, "number"),
        ("3.0", "three", 1.0, "number"),
        ("1,000", "1000", 1.0, "number"),
        ("-2", "2", 0.0, "number"),
        ("30", "3", 0.0, "number"),
        ("3 or 4", "3", 0.0, "number"),
        ("٣", "3", 0.0, "number"),
        ("nan", "3", 0.0, "number"),
        ("9" * 200, "3", 0.0, "number"),
        ("Coca-Cola", "coca-cola", 1.0, "text"),
        ("coca cola", "Coca-Cola", 8 / 9, "text"),
        ("pepsi", "Coca-Cola", 0.0, "text"),
        ("", "Coca-Cola", 0.0, "text"),
    ],
)
def test_without_options_the_truth_says_how_to_compare(said: str, truth: str, score: float, kind: str) -> None:
    found = match(said, truth)
    assert found.score == pytest.approx(score)
    assert found.kind == kind


def test_an_answer_longer_than_any_right_one_is_wrong_at_once() -> None:
    assert match("red " * 10_000, "red").score == 0.0
    assert match("red " * 10_000, "red").settled


@given(st.text(max_size=30))
def test_every_text_is_its_own_right_answer(text: str) -> None:
    assert match(text, text).score == 1.0
    assert match(text, text, [text, f"{text} x"]).score == 1.0


def test_similarity_below_one_half_is_none() -> None:
    assert anls("abcd", "abxy") == 0.5
    assert anls("abcd", "axyz") == 0.0


WORN = "What is the man wearing?"


@pytest.mark.parametrize(
    ("said", "truth", "question", "score"),
    [
        ("The man is wearing a red shirt", "The man is wearing a red shirt.", WORN, 1.0),
        ("a red shirt", "The man is wearing a red shirt.", WORN, 1.0),  # the rest is the question's
        ("The man wears a red shirt.", "a red shirt", WORN, 1.0),
        ("coca cola", "Coca-Cola", "", 1.0),
        ("There are 7 dogs", "There are seven dogs.", "How many dogs?", 1.0),
        ("Starbuks", "Starbucks", "", 8 / 9),  # a slip in a long word
        ("a yelow umbrella", "a yellow umbrella", "", 11 / 12),
        ("a small brown dog", "a brown dog", "", 0.5),
        ("shirt", "a red shirt", WORN, 0.0),
        ("a red shirt", "The man is wearing a red shirt.", "", 0.0),  # without the question all of it must be said
        ("red, blue, green", "red", "What color is it?", 0.0),
        ("a white skirt", "a white shirt", WORN, 0.0),  # in a short word a slip is another word
        ("unopened", "opened", "", 0.0),
        ("the blue cube", "the red cube", "Which is nearer, the red cube or the blue cube?", 0.0),
        ("?!", "!!", "", 0.0),
        ("kitchen", "in the kitchen", "Where is the man?", 1.0),
        ("made of wood", "wood", "", 0.0),  # "made" is a word too many
        ("on the table", "in the table", "", 0.0),
        ("the red one", "red", "", 1.0),
        ("dogs", "one", "How many dogs?", 0.0),
        ("one dog", "three dogs", "", 0.0),
        ("a large brown bear wolf", "a large brown bear", "", 0.5),  # no more than a guess between two
    ],
)
def test_a_free_text_must_say_what_the_right_one_says(said: str, truth: str, question: str, score: float) -> None:
    assert likeness(said, truth, question)[0] == pytest.approx(score)


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30))
def test_no_text_makes_the_comparison_raise(said: str, truth: str, question: str) -> None:
    assert 0 <= likeness(said, truth, question)[0] <= 1


def test_the_reward_knows_the_question_from_its_column_or_from_the_prompt(said: Said) -> None:
    completions, answer = [said([BOX], answer="a red shirt")], ["The man is wearing a red shirt."]
    assert answer_reward(completions=completions, answer=answer, question=[WORN]) == [1.0]
    assert answer_reward(completions=completions, answer=answer, prompts=[WORN]) == [1.0]
    assert AnswerReward()(completions=completions, answer=answer, prompts=[WORN]) == [1.0]
    assert answer_reward(completions=completions, answer=answer) == [0.0]


@given(st.text("abc", max_size=12), st.text("abcd", max_size=12))
def test_edits_are_counted_as_the_table_counts_them(a: str, b: str) -> None:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    assert levenshtein(a, b) == row[-1]


# The reward


def test_only_a_trace_has_an_answer(said: Said) -> None:
    completions = [said([BOX]), said([BOX]) + " red", "<answer>red</answer>"]
    assert answer_reward(completions=completions, answer=["red"] * 3) == [1.0, 0.0, 0.0]


def test_options_may_be_missing_in_part(said: Said) -> None:
    completions = [said([BOX], answer="Red!"), said([BOX], answer="redd")]
    assert answer_reward(completions=completions, answer=["red", "red"], options=[None, ["red", "blue"]]) == [1.0, 0.0]


@pytest.mark.parametrize(("previous", "reward"), [(None, 1.0), (0.0, 2.0), (0.25, 1.75), (1.0, 1.0)])
def test_progress_earns_the_difference_again(said: Said, previous: float | None, reward: float) -> None:
    columns: dict[str, Any] = {"answer": ["red"], "previous": [previous]}
    assert answer_reward(completions=[said([BOX])], **columns) == [pytest.approx(reward)]
    assert answer_reward(completions=[said([BOX], answer="blue")], **columns) == [0.0]


def test_a_column_of_another_length_is_refused(said: Said) -> None:
    with pytest.raises(UsageError, match="'answer' with an entry for each of 1 completions, got 2"):
        answer_reward(completions=[said([BOX])], answer=["red", "blue"])


# Memory


def visit(reward: AnswerReward, said: Said, *answers: str, truth: str = "red", **columns: Any) -> list[float | None]:
    count = len(answers)
    columns.setdefault("id", ["a"] * count)
    return reward(completions=[said([BOX], answer=one) for one in answers], answer=[truth] * count, **columns)


def test_the_memory_holds_the_raw_mean(said: Said) -> None:
    memory = ProgressMemory()
    reward = AnswerReward(memory=memory)
    assert visit(reward, said, "red", "blue") == [1.0, 0.0]
    assert visit(reward, said, "red", "red") == [1.5, 1.5]
    assert memory.previous("a") == 1.0  # not 1.5
    assert visit(reward, said, "red", "red") == [1.0, 1.0]


def test_the_memory_holds_a_zero_too(said: Said) -> None:
    reward = AnswerReward(memory=ProgressMemory())
    assert visit(reward, said, "blue", "blue") == [0.0, 0.0]
    assert visit(reward, said, "red", "blue") == [2.0, 0.0]


def test_samples_do_not_share_a_memory(said: Said) -> None:
    reward = AnswerReward(memory=ProgressMemory())
    assert visit(reward, said, "blue", "red", id=["a", "b"]) == [0.0, 1.0]
    assert visit(reward, said, "red", "red", id=["a", "b"]) == [2.0, 1.0]


def test_an_evaluation_leaves_no_trace_in_the_memory(said: Said) -> None:
    memory = ProgressMemory()
    memory.recording = False
    visit(AnswerReward(memory=memory), said, "blue")
    assert memory.previous("a") is None


def test_a_resumed_run_pays_the_same_bonus(said: Said) -> None:
    memory, resumed = ProgressMemory(), ProgressMemory()
    visit(AnswerReward(memory=memory), said, "red", "blue", "blue")
    resumed.load_state_dict(memory.state_dict())
    both = [visit(AnswerReward(memory=one), said, "red", "red") for one in (memory, resumed)]
    assert both[0] == both[1] == [pytest.approx(1 + 2 / 3)] * 2


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="ProgressMemory"):
        ProgressMemory().load_state_dict({"step": 3})


# Judge


class FixedJudge:
    """Says what it was given to say."""

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores
        self.asked: list[Case] = []

    def __call__(self, cases: Sequence[Case]) -> list[float | None]:
        self.asked += cases
        return list(self.scores[: len(cases)])


def test_the_judge_is_asked_only_what_cannot_be_verified(said: Said) -> None:
    judge = FixedJudge(0.5)
    completions = [said([BOX], answer=one) for one in ("a cat asleep", "sleeping cat", "3", "yes")] + ["<answer>x"]
    earned = AnswerReward(judge=judge)(
        completions=completions,
        answer=["sleeping cat", "sleeping cat", "4", "no", "sleeping cat"],
        question=["What is it?"] * 5,
    )
    assert earned == [0.5, 1.0, 0.0, 0.0, 0.0]
    assert judge.asked == [Case("What is it?", "sleeping cat", "a cat asleep")]


def test_a_failed_judge_gives_no_advantage(said: Said) -> None:
    reward = AnswerReward(judge=FixedJudge(1.0, None, 0.25), memory=ProgressMemory())
    earned = visit(reward, said, "one", "two", "three", "cat", truth="cat")
    assert earned == [1.0, pytest.approx(0.75), 0.25, 1.0]
    others = [earned[0], earned[2], earned[3]]
    assert earned[1] == pytest.approx(sum(others) / 3)  # so what it is above the group's mean is nothing
    assert reward.memory is not None
    assert reward.memory.previous("a") is None


def test_with_a_bonus_too_a_failed_judge_gives_no_advantage(said: Said) -> None:
    memory = ProgressMemory()
    memory.record({"a": 0.5})
    earned = visit(AnswerReward(judge=FixedJudge(1.0, None, 0.0), memory=memory), said, "x", "y", "z", truth="cat")
    assert earned == [1.5, 0.75, 0.0]


def test_a_group_that_failed_as_a_whole_stays_out(said: Said) -> None:
    memory = ProgressMemory()
    memory.record({"a": 0.5})
    reward = AnswerReward(judge=FixedJudge(None, None, 1.0), memory=memory)
    assert visit(reward, said, "x", "y", "z", truth="cat", id=["a", "a", "b"]) == [None, None, 1.0]
    assert memory.previous("a") == 0.5  # its last visit is still the one before


def test_what_is_known_without_the_judge_says_nothing_of_a_group(said: Said) -> None:
    memory = ProgressMemory()
    reward = AnswerReward(judge=FixedJudge(None, None), memory=memory)
    completions = [said([BOX], answer="x"), said([BOX], answer="y"), "no trace at all"]
    assert reward(completions=completions, answer=["cat"] * 3, id=["a"] * 3) == [None] * 3
    assert memory.previous("a") is None
    reward = AnswerReward(judge=FixedJudge(0.6, 0.6), memory=memory)
    assert visit(reward, said, "x", "y", truth="cat") == [0.6, 0.6], "no bonus over a visit that was not judged"


def test_how_often_the_judge_failed_is_logged(said: Said) -> None:
    logged: dict[str, float] = {}
    reward = AnswerReward(judge=FixedJudge(1.0, None))
    visit(reward, said, "x", "y", "cat", "cat", truth="cat", log_metric=logged.__setitem__)
    assert logged == {"judge/failed": 0.25}


def test_a_group_spread_over_processes_has_one_mean(said: Said) -> None:
    elsewhere = [("a", 1.0, 1.0, True), ("a", 0.5, 0.5, True)]
    memory = ProgressMemory()
    reward = AnswerReward(judge=FixedJudge(None), memory=memory, gather=lambda rows: [*elsewhere, *rows])
    assert visit(reward, said, "x", truth="cat") == [0.75]
    assert memory.previous("a") is None, "a visit that is known in part is not remembered"


def test_failed_rows_are_filled_by_group() -> None:
    filled = fill_failed(["a", "a", "a", "b", "b", "c"], [1.0, 0.0, None, None, 0.25, None])
    assert filled == [1.0, 0.0, 0.5, 0.25, 0.25, None]


# Questions and samples


def test_the_question_is_found_in_the_prompt() -> None:
    asked = f"{prompts.DEPTH_IMAGE}\n{prompts.question_text('What is it?', ['a', 'b'])}{prompts.FOCUS_SUFFIX}"
    parts = [{"type": "text", "text": prompts.ORIGINAL_IMAGE}, {"type": "image"}, {"type": "text", "text": asked}]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert questions(2, prompts=[prompt, asked]) == ["What is it?\nOptions: a; b"] * 2
    assert questions(1, prompts=[prompt], question=["Why?"]) == ["Why?"]


def test_samples_without_an_id_are_told_apart_by_all_that_is_known() -> None:
    keys = sample_keys(
        3, question=["q"] * 3, answer=["a"] * 3, boxes=[[(0, 0, 1, 1)], [(0, 0, 1, 0.5)], [(0, 0, 1, 1)]]
    )
    assert keys[0] == keys[2] != keys[1]
    assert sample_keys(2, id=[7, "x"]) == ["7", "x"]
