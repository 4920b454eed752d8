"""Who answers the page: conversations, their pictures, their questions."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from typing import Any, get_args

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from sifthinker.agent.report import render_report, report_of
from sifthinker.agent.result import FocusResult
from sifthinker.agent.web.errors import Refused, busy, without_paths
from sifthinker.agent.web.examples import example_bytes, examples_for
from sifthinker.agent.web.intake import (
    DecisionBody,
    ExampleBody,
    ForkBody,
    QuestionBody,
    picture_name,
    read_body,
    read_json,
)
from sifthinker.agent.web.loading import Loading
from sifthinker.agent.web.pictures import picture_file
from sifthinker.agent.web.runs import Run, Runner, events_of, forget_thread, give_up
from sifthinker.agent.web.sessions import Picture, Session, Sessions
from sifthinker.agent.web.settings import WebSettings
from sifthinker.agent.web.views import look_view, offer_view, policy_name
from sifthinker.nodes.context import FocusContext, Mode
from sifthinker.nodes.images import load_image
from sifthinker.nodes.person import read_decision
from sifthinker.nodes.questions import question_message

_SWEEP_S = 60.0


class Desk:
    """Serves the addresses."""

    def __init__(self, loading: Loading, settings: WebSettings) -> None:
        self.loading = loading
        self.settings = settings
        self.runner = Runner(settings.max_runs)
        self.sessions = Sessions(settings, self._forget)
        self._uploads = 0
        self._workers = anyio.CapacityLimiter(4)
        """Threads that crop and encode pictures."""
        self._decoders = anyio.CapacityLimiter(2)
        """Threads that decode pictures, which takes memory."""

    async def sweep_now_and_then(self) -> None:
        """Forget unused conversations, as long as the server runs."""
        while True:
            await anyio.sleep(_SWEEP_S)
            self.sessions.sweep()

    async def offer(self, request: Request) -> Response:
        """What this server offers: its policy, modes, examples, limits; or how far loading is."""
        about: dict[str, Any] = {
            "state": self.loading.state,
            "version": metadata.version("sifthinker"),
            "look": look_view(),
            "max_question_chars": self.settings.max_question_chars,
        }
        if self.loading.state != "ready":
            return JSONResponse({**about, "message": self.loading.words})
        context = self.loading.agent().context
        examples = [
            {"file": example.file, "title": example.title, "question": example.question}
            for example in examples_for(context.policy.profile.domain)
        ]
        return JSONResponse({**about, **offer_view(context), "examples": examples})

    async def load(self, request: Request) -> Response:
        """Try once more to load what could not be loaded."""
        if self.loading.state == "failed":
            self.loading.start()
        return JSONResponse({"state": self.loading.state})

    # ── conversations ──

    async def open(self, request: Request) -> Response:
        """A new conversation."""
        self.loading.agent()
        return JSONResponse({"id": self.sessions.open().id}, 201)

    async def tell(self, request: Request) -> Response:
        """Everything that a page that was loaded again has to know."""
        session = self._session(request)
        runs = [
            {
                "number": run.number,
                "question": run.question,
                "mode": run.mode,
                "options": list(run.options),
                "image": run.image,
                "state": run.state,
                "events": [json.loads(line) for line in list(run.events)],
            }
            for run in session.runs
        ]
        pictures = [_picture_view(picture) for picture in session.pictures.values()]
        return JSONResponse({"id": session.id, "pictures": pictures, "questions": runs})

    async def close(self, request: Request) -> Response:
        """Forget a conversation."""
        self.sessions.close(request.path_params["session"])
        return Response(status_code=204)

    async def take_image(self, request: Request) -> Response:
        """A picture, as the raw bytes of its file; `name` in the query is what people call it."""
        session, limits = self._session(request), self.loading.agent().context.config.limits
        if self._uploads >= self.settings.max_uploads:
            raise busy()
        self._uploads += 1
        try:
            most = limits.max_bytes / 1e6
            data = await read_body(
                request,
                max_bytes=limits.max_bytes,
                seconds=self.settings.upload_s,
                too_large=f"The picture has more than {most:g} MB: reduce it first.",
            )
            return await self._taken(session, data, picture_name(request.query_params.get("name", "")))
        finally:
            self._uploads -= 1

    async def take_example(self, request: Request) -> Response:
        """One of the example pictures."""
        session = self._session(request)
        body = await read_json(request, ExampleBody, max_bytes=self.settings.max_body_bytes)
        data = example_bytes(body.name)
        if data is None:
            raise Refused(404, "There is no such example.")
        return await self._taken(session, data, body.name)

    async def picture(self, request: Request) -> Response:
        """An image of the conversation, its depth, or a crop of it."""
        session, sha256 = self._session(request), request.path_params["sha256"]
        if sha256 not in session.pictures and not any(sha256 in run.pictures for run in session.runs):
            raise Refused(404, "There is no such picture in this conversation.")
        arguments = (self._context, sha256, request.path_params["kind"], request.query_params.get("box", ""))
        data, kind = await run_sync(picture_file, *arguments, limiter=self._workers)
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    # ── questions ──

    async def ask(self, request: Request) -> Response:
        """Begin to answer a question about the picture at hand."""
        session, agent = self._session(request), self.loading.agent()
        body = await read_json(request, QuestionBody, max_bytes=self.settings.max_body_bytes)
        question = body.question.strip()
        options = tuple(option.strip() for option in body.options if option.strip())
        picture = self._checked(session, question, options, body.mode)
        run = Run(
            number=len(session.runs) + 1,
            question=question,
            mode=body.mode or agent.context.config.mode,
            options=options,
            image=picture.sha256,
            confirm=body.confirm,
        )
        first = all(earlier.image != picture.sha256 for earlier in session.runs)
        message = question_message(
            question, image=picture.sha256, options=options, warnings=picture.warnings if first else ()
        )
        self.runner.ask(agent, run, session.id, message)
        session.runs.append(run)
        return JSONResponse({"number": run.number}, 202)

    async def events(self, request: Request) -> Response:
        """What a run tells, as server-sent events; a listener that comes back goes on after the last it heard."""
        run = self._session(request).run(request.path_params["number"])
        heard = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        start = int(heard) if heard.isdecimal() and len(heard) < 9 else 0
        if run.over and start >= len(run.events):
            return Response(status_code=204)  # tells the browser not to come back
        if run.listeners >= self.settings.max_listeners:
            raise busy()
        return StreamingResponse(
            events_of(run, start), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def decide(self, request: Request) -> Response:
        """A person's decision on the boxes that a run waits with."""
        session, agent = self._session(request), self.loading.agent()
        run = session.run(request.path_params["number"])
        body = await read_json(request, DecisionBody, max_bytes=self.settings.max_body_bytes)
        decision = read_decision({"action": body.action, "boxes": body.boxes, "reason": body.reason})
        if run.state != "waiting":
            raise Refused(409, "This question does not wait for a decision any more.")
        self.runner.decide(agent, run, session.id, decision, confirm=body.confirm)
        return JSONResponse({"number": run.number}, 202)

    async def fork(self, request: Request) -> Response:
        """Go back to a step of the newest question; it waits there for a person's decision on its boxes."""
        session, agent = self._session(request), self.loading.agent()
        run = session.run(request.path_params["number"])
        body = await read_json(request, ForkBody, max_bytes=self.settings.max_body_bytes)
        if run is not session.runs[-1] or run.state != "answered":
            raise Refused(409, "Only the newest question can be gone back into, once it is answered.")
        self.runner.fork(agent, run, session.id, body.step)
        return JSONResponse({"number": run.number}, 202)

    async def stop(self, request: Request) -> Response:
        """End a run at its next token; one that waits for a person is given up at once."""
        session, agent = self._session(request), self.loading.agent()
        run = session.run(request.path_params["number"])
        run.stop.set()
        if run.state == "waiting":
            run.go_on(None)
            await run_sync(give_up, agent, run, session.id, "stopped", {"kind": "stopped"})
        return JSONResponse({"state": run.state}, 202)

    async def report(self, request: Request) -> Response:
        """The HTML report of an answered question, to be kept."""
        run, result, name = await self._answered(request)

        page = await run_sync(_page_of, result, name, limiter=self._workers)
        headers = {"content-disposition": f'attachment; filename="sifthinker-report-{run.number}.html"'}
        return Response(page, media_type="text/html", headers={**headers, "content-security-policy": "sandbox"})

    async def result(self, request: Request) -> Response:
        """The result of an answered question, as `sifthinker ask --json` prints it."""
        run, result, _ = await self._answered(request)
        text = json.dumps(result.to_dict(), ensure_ascii=False, indent=2)
        headers = {"content-disposition": f'attachment; filename="sifthinker-result-{run.number}.json"'}
        return Response(text, media_type="application/json", headers=headers)

    # ── inside ──

    @property
    def _context(self) -> FocusContext:
        return self.loading.agent().context

    def _session(self, request: Request) -> Session:
        return self.sessions.get(request.path_params["session"])

    def _forget(self, session: Session) -> None:
        if not session.running:  # else its thread does so at its end
            forget_thread(self.loading.agent(), session.id)

    def _checked(self, session: Session, question: str, options: tuple[str, ...], mode: str | None) -> Picture:
        """The picture that a question is about, if the question can be asked."""
        settings, picture = self.settings, session.picture
        if picture is None:
            raise Refused(409, "There is no picture yet: drop one, or choose an example.")
        if not question:
            raise Refused(400, "The question is empty: say what you want to know about the picture.")
        if len(question) > settings.max_question_chars or any(len(option) > 200 for option in options):
            raise Refused(413, f"The question is too long: at most {settings.max_question_chars} characters are taken.")
        if len(options) > settings.max_options:
            raise Refused(400, f"There are too many answers to choose from: at most {settings.max_options} are taken.")
        if mode is not None and mode not in get_args(Mode):
            raise Refused(400, f"Expected one of the modes {', '.join(get_args(Mode))}.")
        if session.running:
            raise Refused(409, "The last question is still being answered: wait for it, or stop it.")
        if session.runs and session.runs[-1].state == "waiting":
            raise Refused(409, "The last question waits for your decision on its boxes: decide, or stop it.")
        if (
            len(session.runs) >= settings.max_questions
            or sum(run.bytes for run in session.runs) > settings.max_session_bytes
        ):
            raise Refused(409, "This conversation is full: begin a new one.")
        return picture

    async def _taken(self, session: Session, data: bytes, name: str) -> Response:
        context = self._context
        if session.running:
            raise Refused(409, "The last question is still being answered: wait for it, or stop it.")
        loaded = await run_sync(lambda: load_image(data, limits=context.config.limits), limiter=self._decoders)
        sha256 = await run_sync(context.images.put, loaded.image, limiter=self._workers)
        picture = Picture(sha256, name, loaded.size, tuple(without_paths(warning) for warning in loaded.warnings))
        session.add_picture(picture, most=self.settings.max_pictures)
        return JSONResponse(_picture_view(picture), 201)

    async def _answered(self, request: Request) -> tuple[Run, FocusResult, str]:
        session = self._session(request)
        run = session.run(request.path_params["number"])
        if run.record is None:
            raise Refused(409, "This question has no answer to report.")
        record, context = run.record, self._context
        view = await run_sync(context.view, record["image"], limiter=self._workers)
        result = FocusResult.from_record(record, view, context.images)
        result.policy = policy_name(result.policy)
        result.warnings = [without_paths(warning) for warning in result.warnings]
        picture = session.pictures.get(record["image"])
        return run, result, picture.name if picture else ""


def _page_of(result: FocusResult, name: str) -> str:
    """The report, without paths in what it says about the run."""
    report = report_of(result, image_name=name)
    return render_report(replace(report, facts=[(fact, without_paths(value)) for fact, value in report.facts]))


def _picture_view(picture: Picture) -> dict[str, Any]:
    return {
        "sha256": picture.sha256,
        "name": picture.name,
        "size": list(picture.size),
        "warnings": list(picture.warnings),
    }
