"""Messages: text and images in the order in which they are seen."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from sifthinker.policy.messages import ImagePart, TextPart, alternating, count_images, images_of, message

RGB, CROP = Image.new("RGB", (8, 6)), Image.new("RGB", (2, 2))


def test_a_message_keeps_its_parts_in_order() -> None:
    turn = message("user", "look: ", ImagePart(RGB), TextPart("what is it?"))
    assert turn.parts == (TextPart("look: "), ImagePart(RGB, "rgb"), TextPart("what is it?"))
    assert turn.text == "look: what is it?"
    assert turn.images == [RGB]


def test_the_images_of_a_conversation_come_in_order_with_their_kind() -> None:
    turns = [message("system", "hello"), message("user", ImagePart(RGB)), message("user", ImagePart(CROP, "crop"))]
    assert [(part.image, part.kind) for part in images_of(turns)] == [(RGB, "rgb"), (CROP, "crop")]
    assert count_images(turns) == 2
    assert count_images([]) == 0


def test_neighbouring_turns_of_one_speaker_become_one() -> None:
    turns = [
        message("user", "look: ", ImagePart(RGB)),
        message("user", "at this"),
        message("user"),
        message("user", "too"),
        message("assistant"),
        message("assistant", "yes"),
    ]
    user, assistant = alternating(turns)
    assert user == message("user", "look: ", ImagePart(RGB), "at this", "\n", "too")
    assert assistant == message("assistant", "yes")
    assert alternating([]) == []


def test_an_empty_message_says_nothing() -> None:
    assert message("assistant").text == ""
    assert message("assistant").images == []


def test_what_was_said_stays_said() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        message("user", "a").role = "system"  # type: ignore[misc]
