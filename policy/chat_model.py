"""`FocusChatModel`: any policy as a LangChain chat model, for applications that want the model and not the agent."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, Field

from sifthinker.policy.base import Completion, Policy
from sifthinker.policy.chat_messages import policy_messages
from sifthinker.policy.chat_tools import (
    CallReader,
    ThinkingLeftOut,
    call_chunks,
    format_words,
    instructed,
    tool_words,
)
from sifthinker.policy.errors import UsageError
from sifthinker.policy.load import load_policy
from sifthinker.policy.messages import Message


class _NobodyListens(Exception):
    """Ends a generation whose stream was closed."""


class FocusChatModel(BaseChatModel):
    """A policy that answers LangChain messages: text and images (base64), streaming, token counts, tools.

        model = FocusChatModel(policy="openai:Qwen/Qwen3-VL-8B-Instruct@http://localhost:8000")
        picture = {"type": "image", "base64": data, "mime_type": "image/png"}
        model.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, picture])])

    Tools (`bind_tools`) and structured output (`with_structured_output`) are asked for in words and read from what the
    policy writes, so they work as well as it follows instructions; one that was trained on the trace alone (the
    embedded one) knows neither. Images by address are refused: nothing is fetched.
    """

    policy: Any = Field(default="embedded", description="A loaded policy, or a name for load_policy.")
    policy_options: dict[str, Any] = Field(default_factory=dict, description="Options of load_policy.")
    temperature: float = Field(default=0.0, ge=0.0)
    max_tokens: int = Field(default=1024, ge=1)
    timeout: float | None = Field(default=None, description="Seconds for a call.")
    stop: list[str] | None = None
    seed: int | None = None
    max_retries: int | None = Field(default=None, ge=1, description="Attempts of a call, where a server is named.")

    @property
    def loaded(self) -> Policy:
        """The policy, loaded when it is first needed.

        Raises:
            UsageError, PolicyLoadError: as `load_policy`.
        """
        return self._load(self.policy)

    def _load(self, policy: str | Policy) -> Policy:
        if not isinstance(policy, str):
            return policy
        options = dict(self.policy_options)
        if self.max_retries is not None and policy.startswith("openai:"):
            options.setdefault("attempts", self.max_retries)
        return load_policy(policy, **options)

    @property
    def _llm_type(self) -> str:
        return "sifthinker"

    @property
    def _name(self) -> str:
        return _name_of(self.policy)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"policy": self._name, "temperature": self.temperature, "max_tokens": self.max_tokens}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="sifthinker",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model", self._name),
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stops := stop or self.stop:
            params["ls_stop"] = stops
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        completion = call.policy.generate(call.messages, **call.arguments)
        reader = call.reader
        text = completion.text if reader is None else (reader.feed(completion.text) + reader.close()).strip()
        message = AIMessage(
            content=text,
            tool_calls=reader.calls if reader else [],
            invalid_tool_calls=reader.invalid if reader else [],
            usage_metadata=_usage(completion),
            response_metadata=_metadata(call.name, completion),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        reader = call.reader
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        closed = threading.Event()

        def on_token(piece: str) -> None:
            if closed.is_set():
                raise _NobodyListens
            pieces.put(piece)

        with ThreadPoolExecutor(1, thread_name_prefix="sifthinker-stream") as pool:
            answer = pool.submit(call.policy.generate, call.messages, on_token=on_token, **call.arguments)
            answer.add_done_callback(lambda _: pieces.put(None))
            try:
                while (piece := pieces.get()) is not None:
                    words = piece if reader is None else reader.feed(piece)
                    if not words:
                        continue
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=words))
                    if run_manager:
                        run_manager.on_llm_new_token(words, chunk=chunk)
                    yield chunk
            finally:
                closed.set()
        completion = answer.result()
        last = AIMessageChunk(
            content="" if reader is None else reader.close().rstrip(),
            tool_call_chunks=call_chunks(reader) if reader else [],
            chunk_position="last",
            usage_metadata=_usage(completion),
            response_metadata=_metadata(call.name, completion),
        )
        yield ChatGenerationChunk(message=last)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call; the calls stand in the message's `tool_calls`.

        Args:
            tools: functions, LangChain tools, pydantic models, or schemas in OpenAI's or Anthropic's form.
            tool_choice: "auto" (the default), "none", "any" (one must be called) or a tool's name. It is asked for in
                words: a policy may still answer otherwise.
        """
        kwargs.pop("strict", None)  # what is decoded is constrained by nothing
        listed = [convert_to_openai_tool(tool) for tool in tools]
        if isinstance(tool_choice, dict):
            tool_choice = str(tool_choice.get("function", tool_choice).get("name", "any"))
        elif isinstance(tool_choice, bool):
            tool_choice = "any" if tool_choice else "auto"
        return super().bind(tools=listed, tool_choice=tool_choice or "auto", **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "json_mode", "function_calling"] = "json_schema",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model answering with an object of a schema, checked when it has been written.

        Args:
            schema: a pydantic model, a TypedDict, or a JSON schema.
            include_raw: give `{"raw": message, "parsed": object or None, "parsing_error": error or None}`; otherwise
                an answer that does not keep to the schema raises LangChain's `OutputParserException`.
            method: "json_schema": the policy is shown the schema; "json_mode": it is asked for JSON, and the prompt
                must say of what form; "function_calling": the schema is a tool that it must call.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        kwargs.pop("strict", None)
        if method not in ("json_schema", "json_mode"):
            raise UsageError(f"Expected the method json_schema, json_mode or function_calling, got {method!r}.")
        if kwargs:
            raise UsageError(f"with_structured_output does not know {', '.join(sorted(kwargs))}.")
        as_json = convert_to_json_schema(schema)
        shown = {"type": "json_schema", "json_schema": as_json} if method == "json_schema" else {"type": "json_object"}
        model = super().bind(
            response_format=shown,
            ls_structured_output_format={"kwargs": {"method": method}, "schema": as_json},
        )
        parser: JsonOutputParser
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        else:
            parser = JsonOutputParser()
        spoken = RunnableGenerator(_spoken, _aspoken)
        if not include_raw:
            return model | spoken | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | spoken | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    def _call(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> _Call:
        """A call of the policy; what is said with it wins over the fields."""
        given = dict(given)
        tools, choice = given.pop("tools", None) or [], given.pop("tool_choice", None)
        response_format = given.pop("response_format", None)
        chosen = given.pop("model", None) or self.policy
        policy = self._load(chosen)
        words = "\n\n".join(filter(None, [tool_words(tools, choice), format_words(response_format)]))
        if words and policy.profile.dialect == "sif":
            raise UsageError(
                f"The policy {policy.profile.name!r} was trained on the trace alone: it calls no tools and writes no "
                "JSON. Name an instruct model, or use the agent (create_focus_agent, focus_tool)."
            )
        offered = frozenset(tool["function"]["name"] for tool in tools) if words and choice != "none" else frozenset()
        return _Call(
            policy,
            _name_of(chosen),
            instructed(policy_messages(messages), words),
            self._arguments(stop, given),
            CallReader(offered) if offered else None,
        )

    def _arguments(self, stop: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `Policy.generate`; what a call says wins over the fields."""
        known = ("temperature", "seed", "timeout")
        if unknown := sorted(set(given) - {*known, "max_tokens", "stop"}):
            warnings.warn(f"FocusChatModel does not know {', '.join(unknown)}: left out.", stacklevel=2)
        arguments = {name: given.get(name, getattr(self, name)) for name in known}
        return {
            **arguments,
            "max_new_tokens": given.get("max_tokens", self.max_tokens),
            "stop": stop or self.stop or (),
        }


@dataclass(frozen=True)
class _Call:
    """One call of a policy."""

    policy: Policy
    name: str
    messages: list[Message]
    arguments: dict[str, Any]
    reader: CallReader | None
    """Finds the calls of tools in what is written; None where there are no tools."""


def _spoken(messages: Iterator[AIMessage]) -> Iterator[AIMessageChunk]:
    """A reply's pieces without the thinking before it."""
    reader = ThinkingLeftOut()
    for message in messages:
        yield AIMessageChunk(content=reader.feed(message.text))


async def _aspoken(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessageChunk]:
    reader = ThinkingLeftOut()
    async for message in messages:
        yield AIMessageChunk(content=reader.feed(message.text))


def _name_of(policy: str | Policy) -> str:
    return policy if isinstance(policy, str) else policy.profile.name


def _metadata(name: str, completion: Completion) -> dict[str, Any]:
    return {"model_name": name, "finish_reason": completion.finish_reason, "model_provider": "sifthinker"}


def _usage(completion: Completion) -> UsageMetadata:
    read, written = completion.prompt_tokens, completion.completion_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
