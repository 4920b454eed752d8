"""A remote policy asks a server: what is sent, how it streams back, how many calls are under way at once."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyTimeout, UsageError
from sifthinker.policy.messages import ImagePart, Message, message

Serve = Callable[..., Any]


def test_it_is_a_policy(serve: Serve, stub: ModuleType) -> None:
    assert isinstance(stub.policy(serve(stub.stream("x"))), Policy)


def test_a_stream_is_handed_over_piece_by_piece(serve: Serve, stub: ModuleType) -> None:
    pieces: list[str] = []
    completion = stub.policy(serve(stub.stream("One", " two", " three."))).generate(stub.HELLO, on_token=pieces.append)
    assert pieces == ["One", " two", " three."]
    assert completion.text == "One two three."
    assert (completion.finish_reason, completion.prompt_tokens, completion.completion_tokens) == ("stop", 12, 3)


def test_tokens_of_a_reply_that_is_cut_here_are_counted_by_its_pieces(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.stream("<area>", "[]", "</area>", "<text>", "and", " more"))  # it does not heed stop strings
    completion = stub.policy(server).generate(stub.HELLO, stop=["</area>"])
    assert completion.text == "<area>[]</area>"
    assert completion.completion_tokens == 3


def test_a_server_that_answers_in_one_piece_is_understood(serve: Serve, stub: ModuleType) -> None:
    pieces: list[str] = []
    completion = stub.policy(serve(stub.in_one_piece("All at once."))).generate(stub.HELLO, on_token=pieces.append)
    assert completion.text == "".join(pieces) == "All at once."
    assert completion.prompt_tokens == 3


@pytest.mark.parametrize("extra", ["top_k", ["top_k"], False])
def test_further_fields_of_the_request_that_are_no_mapping_are_wrong_use(
    extra: object, serve: Serve, stub: ModuleType
) -> None:
    with pytest.raises(UsageError, match="Expected extra_body as a mapping"):
        stub.policy(serve(stub.stream("x")), extra_body=extra)


def test_the_request_says_what_was_asked(serve: Serve, stub: ModuleType, picture: Callable) -> None:
    server = serve(stub.stream("x"))
    turns = [
        message("system", "Be brief.", "\ud800"),
        message("user", "Original image: ", ImagePart(picture((40, 30))), "\nWhat?"),
        message("assistant", "A thing."),
        message("user", ImagePart(picture((8, 8)), "crop"), "And?"),
    ]
    completion = stub.policy(server, crop_px=16, extra_body={"top_p": 0.9}).generate(
        turns, stop=["</area>"], max_new_tokens=77, temperature=0.5, seed=3
    )
    request = server.requests[0]
    assert request["_path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer secret-key"
    expected = {
        "model": "some-model",
        "max_tokens": 77,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["</area>"],
        "top_p": 0.9,
    }
    assert {name: request[name] for name in expected} == expected
    assert [turn["role"] for turn in request["messages"]] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in request["messages"]][0::2] == ["Be brief.\ufffd", "A thing."]
    first, second = request["messages"][1]["content"], request["messages"][3]["content"]
    assert [part.get("text") for part in first] == ["Original image: ", None, "\nWhat?"]
    assert decoded(first[1]).tobytes() == picture((40, 30)).tobytes()
    assert decoded(second[0]).size == (16, 16)
    assert completion.images == 2


def decoded(part: dict[str, Any]) -> Image.Image:
    head, _, data = part["image_url"]["url"].partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_large_image_is_sent_as_jpeg(serve: Serve, stub: ModuleType, picture: Callable) -> None:
    server = serve(stub.stream("x"))
    stub.policy(server).generate([message("user", ImagePart(picture((1600, 1200))))])
    assert decoded(server.requests[0]["messages"][0]["content"][0]).format == "JPEG"


def test_calls_at_once_are_bounded(serve: Serve, stub: ModuleType) -> None:
    server = serve(stub.stream("a", "b", "c", pause=0.05))
    remote = stub.policy(server, max_concurrent=3)
    with ThreadPoolExecutor(12) as pool:
        assert {completion.text for completion in pool.map(lambda _: remote.generate(stub.HELLO), range(12))} == {"abc"}
    assert server.most_at_once == 3


def test_a_batch_comes_back_in_order_and_keeps_the_server_busy(serve: Serve, stub: ModuleType) -> None:
    def echo(handler: Any) -> None:
        stub.stream(server.requests[-1]["messages"][0]["content"], pause=0.1)(handler)

    server = serve(stub.stream("x", pause=0.1))
    remote = stub.policy(server, max_concurrent=4)
    completions = remote.generate_batch([[message("user", str(number))] for number in range(8)], seed=10)
    assert len(completions) == 8
    assert server.most_at_once == 4
    seeds = {request["messages"][0]["content"]: request["seed"] for request in server.requests}
    assert seeds == {str(number): 10 + number for number in range(8)}


def test_a_call_that_gets_no_turn_in_time_is_told(serve: Serve, stub: ModuleType) -> None:
    remote = stub.policy(serve(stub.stream(*"abcdefgh", pause=0.1)), max_concurrent=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(remote.generate, stub.HELLO)
        time.sleep(0.2)
        with pytest.raises(PolicyTimeout, match="no free slot"):
            remote.generate(stub.HELLO, timeout=0.1)
        assert first.result().text == "abcdefgh"


def test_messages_must_be_there(serve: Serve, stub: ModuleType) -> None:
    empty: list[Message] = []
    with pytest.raises(UsageError, match="at least one message"):
        stub.policy(serve(stub.stream("x"))).generate(empty)
