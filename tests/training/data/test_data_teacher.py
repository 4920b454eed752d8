"""Teachers: the plain one that says only what is true, and one behind a server that is wrong, late or gone."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from building import FlatDepth, built, config_for, questions, rejects
from PIL import Image

from sifthinker.policy.errors import DataError, PolicyUnavailable, UsageError
from sifthinker.policy.trace import AreaBox, parse
from sifthinker.training.data.build import build, is_complete
from sifthinker.training.data.config import TeacherConfig
from sifthinker.training.data.expansion import Area
from sifthinker.training.data.offline import OfflineTeacher
from sifthinker.training.data.runner import Progress
from sifthinker.training.data.tables import read_records
from sifthinker.training.data.teacher import RemoteTeacher, Reply, Task, load_teacher, trace_in


def task(*areas: Area, labels: tuple[str, ...] = (), question: str = "q?", answer: str = "yes") -> Task:
    return Task(question=question, answer=answer, areas=areas, image=Image.new("RGB", (64, 48)), labels=labels)


WHOLE = Area("whole", (AreaBox(bbox_2d=(0, 0, 1, 1), depth=0.5),))
PAIR = Area(
    "answer",
    (AreaBox(bbox_2d=(0.1, 0.1, 0.2, 0.3), depth=0.2), AreaBox(bbox_2d=(0.7, 0.6, 0.9, 0.9), depth=0.6)),
)


def texts(one: Task) -> list[str]:
    return [step.text for step in parse(OfflineTeacher().write(one).text).steps]


def test_the_plain_teacher_tells_relations_as_the_numbers_have_them() -> None:
    last = texts(task(WHOLE, PAIR, labels=("red cube", "blue sphere"), question="Is the red cube by the blue sphere?"))
    assert "the red cube and the blue sphere" in last[0]
    assert "the red cube is nearer than the blue sphere" in last[1]
    assert "The red cube is further left than the blue sphere" in last[1]
    swapped = Area("answer", PAIR.boxes[::-1])
    assert "place 2 is nearer than place 1" in texts(task(WHOLE, swapped))[1]
    level = Area("answer", tuple(box.model_copy(update={"depth": 0.4}) for box in PAIR.boxes))
    assert "equally far" in texts(task(WHOLE, level))[1]


def test_the_plain_teacher_tells_things_of_one_name_apart() -> None:
    hull = Area("hull", (AreaBox(bbox_2d=(0.1, 0.1, 0.9, 0.9), depth=0.4),))
    said = texts(task(WHOLE, hull, PAIR, labels=("dog", "the dog"), question="Which dog is nearer?"))
    assert said[0] == "I begin with the whole image and look for the 2 places that decide the question."
    assert "the 2 places that decide the question lie in the middle" in said[1]
    assert "the first dog is nearer than the second dog" in said[2]


def test_a_name_within_another_word_is_not_asked_for() -> None:
    said = texts(task(WHOLE, PAIR, labels=("cat", "car"), question="Which category has a car?"))
    assert "look for the 2 places" in said[0]
    assert "the cat is nearer than the car" in said[1]


def test_the_plain_teacher_does_not_tell_the_answer_before_the_end() -> None:
    asked = task(
        WHOLE, Area("answer", PAIR.boxes[:1]), labels=("red cube",), question="What color is the cube?", answer="red"
    )
    assert "red" not in texts(asked)[0]
    assert texts(asked)[-1].endswith("That answers the question: Red.")


def test_the_plain_teacher_says_of_a_wrong_area_that_it_is_one() -> None:
    wrong = Area("distractor", (AreaBox(bbox_2d=(0.4, 0.4, 0.6, 0.6), depth=0.3),))
    assert "Nothing in this area" in texts(task(WHOLE, wrong, PAIR))[1]


def test_the_remote_teacher_shows_each_area_and_tells_why_a_trace_was_refused() -> None:
    teacher = RemoteTeacher(policy=None)  # type: ignore[arg-type]
    one = task(WHOLE, PAIR)
    system, user = teacher.messages(one)
    assert "<area>BOXES</area>" in system.text
    assert '[{"bbox_2d":[0.100,0.100,0.200,0.300],"depth":0.200}' in user.text
    assert len(user.images) == 2
    assert user.images[1].getpixel((7, 10)) == (0, 230, 60)
    again = Task(**{**one.__dict__, "refused": "Expected area 1.", "attempt": 2})
    assert "Expected area 1." in teacher.messages(again)[1].text


def test_a_trace_is_found_behind_what_a_model_thought_before() -> None:
    trace = "<think><area>[]</area><text>a</text></think><answer>b</answer>"
    assert trace_in(f"<think>I plan <think>…</think>.</think>\n{trace}") == trace
    assert trace_in(f"<think>plan</think>\n\n{trace}\nThis keeps to <think>.") == trace


def test_a_trace_is_found_in_a_fence() -> None:
    assert trace_in("Here:\n```\n<think>a</think><answer>b</answer>\n```") == "<think>a</think><answer>b</answer>"
    assert trace_in("I cannot.") == "I cannot."


@pytest.mark.parametrize("name", ["", "gpt", "openai:m", "openai:@http://x", "openai:m@nowhere"])
def test_a_name_that_is_no_teacher_is_told(name: str) -> None:
    with pytest.raises(UsageError, match=r"openai:MODEL@URL|address"):
        load_teacher(TeacherConfig(name=name), concurrency=1)


@dataclass
class Server:
    """A stub of a teacher's server: what it does with its n-th call about a question is said by `plan`."""

    plan: dict[str, list[str]] = field(default_factory=dict)
    """Question -> what happens at each call: "ok", "wrong", "prose", "late", "half", or a status ("400", …)."""
    default: str = "ok"
    calls: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        with self._lock:
            self.calls.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            text = " ".join(part.get("text", "") for part in body["messages"][1]["content"])
            asked = text.split("Question: ")[1].split("\n")[0]
            planned = self.plan.get(asked)
            what = planned.pop(0) if planned else self.default
        try:
            if what == "late":
                time.sleep(1.5)
            if what in ("429", "500", "400", "401", "402"):
                return int(what), "{}", {"retry-after": "0"}
            return 200, self._said(what, text), {}
        finally:
            with self._lock:
                self._now -= 1

    def _said(self, what: str, text: str) -> str:
        areas = [line.split("BOXES: ")[1].split("\n")[0] for line in text.split("\nArea ")[1:]]
        answer = text.split("Right answer: ")[1].split("\n")[0]
        if what == "wrong":
            areas = [area.replace('"depth":0.', '"depth":1.') for area in areas]
        steps = "".join(f"<area>{area}</area><text>I look.</text>" for area in areas)
        said = (
            "I would rather not." if what == "prose" else f"```\n<think>{steps}</think><answer>{answer}</answer>\n```"
        )
        reply = {
            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
        return json.dumps(reply)[: 40 if what == "half" else None]


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, text, headers = server.answer(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def taught(
    server: Server,
    path: Path,
    out: Path,
    *,
    timeout: float = 20.0,
    give_up: bool = False,
    retry: Sequence[str] = (),
    **fields: Any,
) -> Progress:
    teacher = {"name": f"openai:stub@{server.url}", "retries": 2, "call_timeout": timeout, **fields.pop("teacher", {})}
    config = config_for(path, teacher=teacher, **fields)
    return build(config, out, depth=FlatDepth(), give_up=give_up, retry=retry)


def test_a_server_that_answers_well_is_taken_at_its_word(tmp_path: Path) -> None:
    with serving(Server()) as server:
        done = taught(server, questions(tmp_path / "s", 6), tmp_path / "out", concurrency=3)
    assert done.accepted == len(server.calls) == 6
    assert server.most_at_once <= 3
    assert (done.teacher.prompt_tokens, done.teacher.completion_tokens) == (600, 60)
    assert done.teacher.cost(TeacherConfig(price_in=10, price_out=100)) == pytest.approx(0.012)
    (record, *_) = read_records(tmp_path / "out")
    assert record.provenance.teacher == "openai:stub"
    assert server.url not in (tmp_path / "out/build.json").read_text()
    assert "I look." in record.trace


def test_a_wrong_trace_is_asked_for_again_with_the_reason_and_then_refused(tmp_path: Path) -> None:
    plan = {"What is at place 0?": ["wrong", "prose", "ok"], "What is at place 1?": ["wrong", "wrong", "wrong"]}
    with serving(Server(plan)) as server:
        taught(server, questions(tmp_path / "s", 3), tmp_path / "out")
    first = [call for call in server.calls if "place 0" in str(call["messages"][1])]
    assert [call["temperature"] for call in first] == [0.0, 0.7, 0.7]
    assert "An earlier reply was refused" in str(first[1]["messages"][1])
    (refused,) = rejects(tmp_path / "out").values()
    assert refused.reason == "grammar:range"
    assert (refused.attempts, refused.prompt_tokens) == (3, 300)
    assert "<area>" in refused.text
    records = {record.question: record for record in read_records(tmp_path / "out")}
    assert records["What is at place 0?"].provenance.attempts == 3


@pytest.mark.parametrize("fault", ["429", "500", "half"])
def test_a_passing_fault_of_the_server_is_lived_through(fault: str, tmp_path: Path) -> None:
    with serving(Server({"What is at place 1?": [fault]})) as server:
        done = taught(server, questions(tmp_path / "s", 3), tmp_path / "out")
    assert done.accepted == 3
    assert len(server.calls) == 4


def test_a_sample_whose_calls_all_fail_is_tried_again_after_the_others(tmp_path: Path) -> None:
    with serving(Server({"What is at place 0?": ["500", "500"]})) as server:
        done = taught(server, questions(tmp_path / "s", 4), tmp_path / "out", concurrency=1)
    assert (done.accepted, done.rejected, done.open) == (4, 0, 0)
    assert "place 0" in str(server.calls[-1]["messages"][1])


def test_a_late_answer_is_not_waited_for_and_asked_for_again(tmp_path: Path) -> None:
    with serving(Server({"What is at place 0?": ["late"]})) as server:
        done = taught(server, questions(tmp_path / "s", 2), tmp_path / "out", timeout=0.7)
    assert done.accepted == 2


def test_what_a_server_refuses_does_not_end_a_build(tmp_path: Path) -> None:
    plan = {f"What is at place {i}?": ["400", "400"] for i in range(1, 8)}
    with serving(Server(plan)) as server:
        done = taught(server, questions(tmp_path / "s", 9), tmp_path / "out", concurrency=1, failures_in_a_row=2)
    assert (done.accepted, done.rejected) == (2, 7)


def test_as_many_calls_as_are_under_way_may_fail_of_one_blip(tmp_path: Path) -> None:
    plan = {f"What is at place {i}?": ["500"] for i in range(6)}
    with serving(Server(plan)) as server:
        path = questions(tmp_path / "s", 8)
        done = taught(server, path, tmp_path / "out", concurrency=6, failures_in_a_row=2, teacher={"retries": 1})
    assert (done.accepted, done.rejected) == (8, 0)


def test_a_server_that_refuses_everything_ends_the_build_early(tmp_path: Path) -> None:
    with serving(Server(default="400")) as server:
        with pytest.raises(PolicyUnavailable, match=r"refused all of 6 samples, last: .*400"):
            taught(server, questions(tmp_path / "s", 30), tmp_path / "out", concurrency=2, failures_in_a_row=6)
        assert len(server.calls) <= 6 + 2 * 2


def test_a_build_of_which_only_refused_samples_are_left_is_not_blocked(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.accepted == 2:
            raise Enough

    path, out = questions(tmp_path / "s", 8), tmp_path / "out"
    few: dict[str, Any] = {"concurrency": 1, "failures_in_a_row": 2}
    with pytest.raises(Enough):
        build(
            config_for(path, teacher={"name": "openai:stub@http://127.0.0.1:9"}, **few),
            out,
            teacher=Named(),
            depth=FlatDepth(),
            on_progress=stop,
        )
    with serving(Server(default="400")) as server:
        with pytest.raises(PolicyUnavailable, match=r"failed on 6 of 8 samples, last: .*400.*--give-up"):
            taught(server, path, out, **few)
        done = taught(server, path, out, give_up=True, **few)
    assert (done.earlier, done.rejected) == (2, 6)


class Named(OfflineTeacher):
    """Writes what the offline teacher writes, under the name of the stub."""

    name = "openai:stub"


def test_what_came_while_the_build_was_ending_is_kept(tmp_path: Path) -> None:
    class Slow(PolicyUnavailable):
        def __str__(self) -> str:
            time.sleep(0.3)  # so long it takes to say what was wrong
            return "away"

    class Away(OfflineTeacher):
        def write(self, task: Task) -> Reply:
            if "place 2" not in task.question:
                raise Slow
            return super().write(task)

    def wait(_: Progress) -> None:
        time.sleep(0.3)

    path, out = questions(tmp_path / "s", 3), tmp_path / "out"
    config = config_for(path, concurrency=1, failures_in_a_row=1)
    with pytest.raises(PolicyUnavailable, match="2 times in a row, last: away 1 finished samples are kept"):
        build(config, out, teacher=Away(), depth=FlatDepth(), on_progress=wait)
    assert build(config, out, depth=FlatDepth()).earlier == 1


def test_a_server_that_never_answers_ends_the_build_and_loses_nothing(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 12), tmp_path / "out"
    with serving(Server(default="500", plan={f"What is at place {i}?": ["ok"] for i in range(5)})) as server:
        with pytest.raises(PolicyUnavailable, match=r"5 finished samples are kept.*same command again"):
            taught(server, path, out, concurrency=1, failures_in_a_row=3, teacher={"retries": 1})
        assert not is_complete(out)
        server.default = "ok"
        before = len(server.calls)
        done = taught(server, path, out, concurrency=1, failures_in_a_row=3, teacher={"retries": 1})
    assert (done.earlier, done.accepted) == (5, 7)
    assert len(server.calls) - before == 7
    assert [record.provenance.position for record in read_records(out)] == list(range(12))


def test_what_a_living_server_refuses_twice_is_the_samples_own_fault(tmp_path: Path) -> None:
    with serving(Server({"What is at place 2?": ["400", "400"]})) as server:
        done = taught(server, questions(tmp_path / "s", 4), tmp_path / "out")
    assert (done.accepted, done.rejected) == (3, 1)
    assert "400" in rejects(tmp_path / "out")["refused"].message


@pytest.mark.parametrize("plan", [["402", "402"], ["500", "400"]])
def test_an_expired_key_or_a_single_refusal_rejects_no_sample(plan: list[str], tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 4), tmp_path / "out"
    with serving(Server({"What is at place 2?": plan})) as server:
        with pytest.raises(PolicyUnavailable, match=rf"failed on 1 of 4 samples, last: .*{plan[-1]}"):
            taught(server, path, out, teacher={"retries": 1}, give_up="402" in plan)
        done = taught(server, path, out)
    assert (done.earlier, done.accepted, done.rejected) == (3, 1, 0)


def test_a_key_that_expires_on_the_way_ends_the_build(tmp_path: Path) -> None:
    plan = {f"What is at place {i}?": ["ok"] for i in range(3)}
    with serving(Server(plan, default="402")) as server:
        with pytest.raises(PolicyUnavailable, match=r"failed 4 times in a row, last: .*402"):
            taught(server, questions(tmp_path / "s", 12), tmp_path / "out", concurrency=1, failures_in_a_row=4)
        assert len(server.calls) <= 3 + 4 + 2


def test_a_teacher_none_of_whose_first_replies_is_accepted_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sifthinker.training.data.build.REFUSED_AT_FIRST", 6)
    path, out = questions(tmp_path / "s", 5), tmp_path / "out"
    with serving(Server(default="prose")) as server:
        with pytest.raises(DataError, match=r"first 6 replies .*2 finished samples are kept.*--retry grammar:outside"):
            taught(server, path, out, concurrency=1)
        assert len(server.calls) <= 9 + 3
        server.default = "ok"
        done = taught(server, path, out, concurrency=1, retry=["grammar:outside"])
    assert (done.earlier, done.accepted) == (0, 5)


def test_what_a_living_server_never_answers_stays_open_until_the_user_gives_it_up(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 4), tmp_path / "out"
    with serving(Server({"What is at place 2?": ["500"] * 20})) as server:
        with pytest.raises(PolicyUnavailable, match=r"failed on 1 of 4 samples, last: .*500.*--give-up"):
            taught(server, path, out, teacher={"retries": 1})
        done = taught(server, path, out, teacher={"retries": 1}, give_up=True)
    assert (done.earlier, done.accepted, done.rejected) == (3, 0, 1)
    assert "500" in rejects(out)["unanswered"].message
    assert is_complete(out)


def test_giving_up_is_not_for_a_server_that_is_away(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 3), tmp_path / "out"
    with serving(Server(default="500")) as server:
        with pytest.raises(PolicyUnavailable):
            taught(server, path, out, teacher={"retries": 1}, give_up=True)
        server.default = "ok"
        assert taught(server, path, out).accepted == 3


def test_a_wrong_key_refuses_no_sample(tmp_path: Path) -> None:
    path, out = questions(tmp_path / "s", 3), tmp_path / "out"
    with serving(Server(default="401")) as server:
        with pytest.raises(PolicyUnavailable, match="key"):
            taught(server, path, out, failures_in_a_row=2)
        server.default = "ok"
        assert taught(server, path, out, failures_in_a_row=2).accepted == 3


def test_the_plain_teacher_and_the_world_agree_on_every_family(world: Path, tmp_path: Path) -> None:
    records = built(world, tmp_path / "out", kind="world")
    assert len(records) == 10
    for record in records:
        assert record.parsed().answer == record.answer
