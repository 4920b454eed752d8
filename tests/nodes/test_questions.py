"""Questions as messages: whatever form the image comes in, the state holds a hash."""

from __future__ import annotations

import base64
import io

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from PIL import Image

from sifthinker.nodes.context import FocusConfig
from sifthinker.nodes.images import MemoryImageStore, image_hash
from sifthinker.nodes.questions import (
    answer_message,
    earlier_questions,
    image_ids,
    intern_all,
    intern_images,
    question_message,
    read_question,
)
from sifthinker.policy.errors import ImageError, UsageError


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", (40, 30), (200, 30, 30))


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "block",
    [
        lambda data: {"type": "image", "base64": data, "mime_type": "image/png"},
        lambda data: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        lambda data: {"type": "image_url", "image_url": f"data:image/png;base64,{data}"},
        lambda data: {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
        lambda data: {"type": "image", "source": {"type": "base64", "data": data, "media_type": "image/png"}},
        lambda data: {"type": "image", "url": f"data:image/png;base64,{data}"},
    ],
    ids=["langchain", "openai", "openai-string", "langchain-v0", "anthropic", "data-url"],
)
def test_an_image_in_any_common_form_is_stored_and_named_by_its_hash(block, picture):
    images = MemoryImageStore()
    asked = HumanMessage(content=[block(png(picture)), {"type": "text", "text": "What is it?"}], id="m")

    interned = intern_images(asked, images, FocusConfig())

    assert image_ids(interned) == [image_hash(picture)]
    assert image_hash(picture) in images
    assert interned.id == "m"
    assert interned.text == "What is it?"


def test_a_message_without_pixels_is_left_alone():
    images = MemoryImageStore()
    for message in (HumanMessage("words"), question_message("words", image="0" * 64), AIMessage("words")):
        assert intern_images(message, images, FocusConfig()) is message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.org/a.png", "url"),
        ("/etc/passwd", "url"),
        ("file:///etc/passwd", "url"),
        ("C:\\pictures\\a.png", "url"),
    ],
)
def test_addresses_and_paths_in_messages_are_refused(url, reason):
    asked = HumanMessage(content=[{"type": "image", "url": url}, {"type": "text", "text": "What is it?"}])
    with pytest.raises(ImageError) as caught:
        intern_images(asked, MemoryImageStore(), FocusConfig())
    assert caught.value.reason == reason


@pytest.mark.parametrize("data", ["not base64!", base64.b64encode(b"not an image").decode(), ""])
def test_broken_image_data_is_refused_in_a_sentence(data):
    asked = HumanMessage(content=[{"type": "image", "base64": data, "mime_type": "image/png"}])
    with pytest.raises(ImageError):
        intern_images(asked, MemoryImageStore(), FocusConfig())


def test_an_earlier_image_that_cannot_be_loaded_does_not_end_the_conversation(picture, caplog):
    bad = HumanMessage([{"type": "text", "text": "And this?"}, {"type": "image", "base64": "AAAA"}], id="1")
    nowhere = HumanMessage([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], id="2")
    good = HumanMessage([{"type": "text", "text": "What is it?"}, {"type": "image", "base64": png(picture)}])
    store = MemoryImageStore()
    taken = intern_all(
        [bad, AIMessage("I cannot see it."), nowhere, good, HumanMessage("And now?")], store, FocusConfig()
    )
    assert read_question(taken).image == image_hash(picture)
    assert [message.id for message in taken[:3:2]] == ["1", "2"], "they take the place of what was there"
    assert "could not be loaded" in taken[0].text
    assert "AAAA" not in str(taken)
    assert "left out" in caplog.text
    with pytest.raises(ImageError):
        intern_all([good, bad, HumanMessage("And now?")], store, FocusConfig())


def test_what_loading_changed_is_told_with_the_question(picture):
    transparent = picture.convert("RGBA")
    transparent.putalpha(100)
    asked = HumanMessage(
        content=[{"type": "image", "base64": png(transparent), "mime_type": "image/png"}, {"type": "text", "text": "?"}]
    )
    interned = intern_images(asked, MemoryImageStore(), FocusConfig())
    assert "transparent" in read_question([interned]).warnings[0]


def test_the_last_human_message_is_the_question_and_the_last_image_before_it_the_image():
    messages = [
        question_message("first?", image="a" * 64, options=["yes", "no"]),
        AIMessage("yes"),
        question_message("second?"),
        AIMessage("from another agent"),
    ]
    question = read_question(messages)
    assert (question.text, question.image, question.options) == ("second?", "a" * 64, ())


def test_a_question_that_cannot_be_asked_is_wrong_use():
    two = [
        {"type": "image", "file_id": "a" * 64},
        {"type": "image", "file_id": "b" * 64},
        {"type": "text", "text": "?"},
    ]
    for messages, words in [
        ([], "none"),
        ([AIMessage("hello")], "none"),
        ([question_message("  \n", image="a" * 64)], "empty"),
        ([HumanMessage("what is it?")], "no image"),
        ([HumanMessage(content=two)], "one image"),
    ]:
        with pytest.raises(UsageError, match=words):
            read_question(messages)


def test_earlier_questions_are_those_answered_about_the_same_image():
    def answered(text: str, image: str) -> AIMessage:
        return answer_message(text, image=image, trace=f"trace of {text}", policy="p", tokens=(1, 1, 1))

    messages = [
        question_message("one?", image="a" * 64, options=["1", "2"]),
        answered("1", "a" * 64),
        question_message("other picture?", image="b" * 64),
        answered("x", "b" * 64),
        question_message("two?", image="a" * 64),
        AIMessage("another agent answers"),
        answered("2", "a" * 64),
        question_message("never answered?"),
        question_message("now?"),
    ]
    earlier = earlier_questions(messages, "a" * 64, limit=8)
    assert [(entry.question, entry.trace) for entry in earlier] == [("one?", "trace of 1"), ("two?", "trace of 2")]
    assert earlier[0].options == ("1", "2")
    assert [entry.question for entry in earlier_questions(messages, "a" * 64, limit=1)] == ["two?"]
    assert earlier_questions(messages, "a" * 64, limit=0) == []


def test_foreign_data_under_our_key_does_no_harm():
    foreign = AIMessage("x", additional_kwargs={"sifthinker": {"anything": 1}})
    assert earlier_questions([question_message("?", image="a" * 64), foreign], "a" * 64, limit=8) == []


def test_one_text_is_no_list_of_options() -> None:
    with pytest.raises(UsageError, match="list of answers"):
        question_message("What colour?", options="red")
    assert question_message("What colour?", options=("red",)).additional_kwargs
