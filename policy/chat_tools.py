"""Tools and structured answers for a chat model over any policy: asked for in words, read from what it writes.

A policy takes text and pictures and gives text. So tools are listed in the system turn, and a call is a JSON object
between `<tool_call>` and `</tool_call>`, the form that Qwen's models and many others are trained on; a structured
answer is JSON after a schema. Nothing constrains the decoding: a policy that cannot do it will not, and what it wrote
instead is given back as text, or as an invalid call.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall, ToolCallChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk

from sifthinker.policy.errors import UsageError
from sifthinker.policy.messages import Message, Part, TextPart

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
THINKING = ("<think>", "</think>")
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
_BARE = ("{", "`")
"""How an answer begins that may be a call without its tags."""


def tool_words(tools: Sequence[Mapping[str, Any]], choice: str | None) -> str:
    """What a policy is told of its tools.

    Args:
        tools: in OpenAI's form, `{"type": "function", "function": {"name", "description", "parameters"}}`.
        choice: None or "auto": it may call; "any" or "required": it must; a tool's name: it must call that one;
            "none": it is told of none.
    """
    if choice == "none" or not tools:
        return ""
    names = [str(tool["function"]["name"]) for tool in tools]
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    if choice in (None, "auto"):
        duty = "Call a tool where it helps; else answer in words."
    elif choice in ("any", "required"):
        duty = "Your next message must be a call of one of these tools, and nothing else."
    elif choice in names:
        duty = f"Your next message must be a call of the tool {choice}, and nothing else."
    else:
        raise UsageError(f"There is no tool {choice!r} to be chosen: known are {', '.join(names)}.")
    form = f'{CALL_OPEN}\n{{"name": "…", "arguments": {{…}}}}\n{CALL_CLOSE}'
    return (
        "These tools can be called, each described as JSON with a schema of its arguments:\n"
        f"<tools>\n{listed}\n</tools>\n"
        f"To call one, write its name and arguments as JSON between these tags, once for each call:\n{form}\n"
        f"What it gave comes back in the next message. {duty}"
    )


def format_words(response_format: Mapping[str, Any] | None) -> str:
    """What a policy is told of the form of its answer: `{"type": "json_object"}`, or `"json_schema"` with a schema."""
    if response_format is None:
        return ""
    words = "Answer with one JSON object and nothing else: no words around it."
    if (schema := response_format.get("json_schema")) is None:
        return words
    return f"{words} It keeps to this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"


def instructed(messages: Sequence[Message], words: str) -> list[Message]:
    """The messages with these words in the system turn, which is added where there is none."""
    if not words:
        return list(messages)
    if messages and messages[0].role == "system":
        parts: tuple[Part, ...] = (*messages[0].parts, TextPart(f"\n\n{words}"))
        return [Message("system", parts), *messages[1:]]
    return [Message("system", (TextPart(words),)), *messages]


class ThinkingLeftOut:
    """Takes pieces of a reply, and gives it without the thinking that some models put before it in <think> tags."""

    def __init__(self) -> None:
        self._held: str | None = ""  # None: the thinking is over, or there is none

    def feed(self, piece: str) -> str:
        """What of the reply is known so far and has not been given yet."""
        if self._held is None:
            return piece
        held = self._held + piece
        bare = held.lstrip()
        if not bare.startswith(THINKING[0]) and not THINKING[0].startswith(bare):
            self._held = None
            return held
        _, end, rest = held.partition(THINKING[1])
        self._held = None if end else held
        return rest.lstrip()


def call_words(said: AIMessage) -> str:
    """The calls of an earlier message, as the policy wrote them or would have."""
    calls = [{"name": call["name"], "arguments": call["args"]} for call in said.tool_calls]
    written = [json.dumps(call, ensure_ascii=False) for call in calls]
    return "".join(f"\n{CALL_OPEN}\n{call}\n{CALL_CLOSE}" for call in written)


def call_chunks(reader: CallReader) -> list[ToolCallChunk]:
    """The calls that were read, as the last chunk of a stream carries them."""
    read = [(call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"]) for call in reader.calls]
    # as a JSON string, which is no object: half an object would be mended where chunks are added up, and be called
    read += [(call["name"] or "", json.dumps(call["args"] or ""), call["id"]) for call in reader.invalid]
    return [tool_call_chunk(name=name, args=args, id=own, index=index) for index, (name, args, own) in enumerate(read)]


@dataclass
class CallReader:
    """Takes text apart, piece by piece: into words for the user, and calls of tools.

    Words that may be the beginning of a call are held back until it is known.
    """

    names: frozenset[str]
    """The tools there are. A call without its tags is taken for one only where it names one of them."""
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidToolCall] = field(default_factory=list)
    _held: str = ""
    _said: bool = False
    _inside: bool = False

    def feed(self, piece: str) -> str:
        """The words that are known to be words now; calls are added to `calls`."""
        self._held += piece
        words = ""
        while True:
            mark = CALL_CLOSE if self._inside else CALL_OPEN
            before, found, after = self._held.partition(mark)
            if not found:
                break
            if self._inside:
                self._take(before)
            else:
                words += self._word(before.rstrip())
            self._held, self._inside = after.lstrip() if self._inside else after, not self._inside
        if self._inside or (not self._said and self._held.lstrip().startswith(_BARE)):
            return words
        kept = _overlap(self._held, CALL_OPEN)
        words += self._word(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]
        return words

    def close(self) -> str:
        """The rest of the words, at the end of the text."""
        held, self._held = self._held, ""
        if self._inside:  # cut off before the closing tag, which some models leave out
            self._take(held)
            return ""
        bare = _FENCED.sub(r"\1", held.strip())
        if not self._said and not self.calls and (call := self._call(bare)) is not None and call["name"] in self.names:
            self.calls.append(call)
            return ""
        return self._word(held)

    def _word(self, text: str) -> str:
        self._said = self._said or bool(text.strip())
        return text

    def _take(self, text: str) -> None:
        call = self._call(_FENCED.sub(r"\1", text.strip()))
        if call is not None:
            self.calls.append(call)
            return
        problem = "Expected a JSON object with a name and an object of arguments."
        self.invalid.append(invalid_tool_call(name=None, args=text.strip(), id=_id(), error=problem))

    def _call(self, text: str) -> ToolCall | None:
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(read, dict) or not isinstance(read.get("name"), str):
            return None
        arguments: Any = next((read[key] for key in ("arguments", "args", "parameters") if key in read), {})
        if isinstance(arguments, str):  # JSON inside of JSON, as OpenAI's own form has it
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return None
        return tool_call(name=read["name"], args=arguments, id=_id()) if isinstance(arguments, dict) else None


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text, with the spaces before them, may be the beginning of the mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length + _trailing_space(text[:-length])
    return _trailing_space(text)


def _trailing_space(text: str) -> int:
    return len(text) - len(text.rstrip())


def _id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
