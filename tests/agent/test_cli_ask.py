"""`sifthinker ask` from the words typed to what is printed and saved, on a scripted policy."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from scripted import ScriptedPolicy, focus_lines

from sifthinker.agent import asking, cli, config
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import PolicyTimeout

WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.4, 0.6), (0.5, 0.2, 0.9, 0.6)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.effect_noise((120, 80), 60).convert("RGB").save(path)
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line with a scripted policy; returns exit code, output and errors."""

    def run(*arguments: str, policy: Policy | None = None) -> tuple[int, str, str]:
        scripted = policy or ScriptedPolicy(*focus_lines(WHOLE, LEFT, RIGHT, answer="the left one"))
        monkeypatch.setattr(config, "load_policy", lambda name, **options: scripted)
        monkeypatch.setattr(asking, "load_policy", lambda name, **options: scripted)
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_steps_the_answer_and_the_cost_are_shown(run: Run, photo: str) -> None:
    code, out, err = run("ask", photo, "Which one?", "--depth", "none")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("1.  whole image")
    assert lines[2].startswith("2.  0.10, 0.20 – 0.40, 0.60")
    assert "Answer  the left one" in lines
    assert lines[-1].startswith("scripted · tools · 3 steps · ")


def test_a_long_answer_is_one_line_in_a_pipe(run: Run, photo: str) -> None:
    answer = " ".join(f"word{number}" for number in range(60))
    _, out, _ = run(
        "ask", photo, "Which?", "--depth", "none", policy=ScriptedPolicy(*focus_lines(WHOLE, answer=answer))
    )
    assert f"Answer  {answer}" in out.splitlines()


def test_json_is_one_object_with_the_agreed_keys(run: Run, photo: str) -> None:
    code, out, err = run("ask", photo, "Which one?", "--depth", "none", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"answer", "mode", "policy", "valid_trace", "steps", "warnings", "tokens", "seconds"}
    assert found["answer"] == "the left one"
    assert found["mode"] == "tools"
    assert found["valid_trace"] is True
    assert set(found["tokens"]) == {"prompt", "completion", "images"}
    assert set(found["steps"][1]) == {"boxes", "text", "crop_size"}
    assert set(found["steps"][1]["boxes"][0]) == {"bbox_2d", "depth", "measured_depth"}
    assert found["steps"][0]["crop_size"] is None
    assert found["steps"][1]["crop_size"] == [36, 32]


def test_options_reach_the_policy(run: Run, photo: str) -> None:
    policy = ScriptedPolicy("<answer>the left one</answer>")
    code, _, _ = run(
        *("ask", photo, "Which one?", "-o", "the left one", "-o", "the right one"),
        *("--mode", "direct", "--depth", "none"),
        policy=policy,
    )
    assert code == 0
    assert "the left one; the right one" in policy.heard[0][-1].text


def test_the_run_is_saved_and_can_be_asked_again(run: Run, photo: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    code, out, _ = run("ask", photo, "Which one?", "--depth", "none", "--save", str(folder))
    assert code == 0
    assert out.splitlines()[-1] == f"Saved: {folder / 'report.html'}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "--depth none" in page
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["answer"] == "the left one"


@pytest.mark.parametrize(
    ("depth", "said"), [("image:DEPTH:near=dark", "is read by this run"), ("none", "no saved run")]
)
def test_save_writes_over_no_file_of_the_user_s(run: Run, photo: str, tmp_path: Path, depth: str, said: str) -> None:
    folder, mine = tmp_path / "run", tmp_path / "run" / "depth.png"
    if depth != "none":
        assert run("ask", photo, "Which one?", "--depth", "none", "--save", str(folder))[0] == 0
    folder.mkdir(exist_ok=True)
    Image.new("L", (120, 80), 9).save(mine)
    before, policy = mine.read_bytes(), ScriptedPolicy("<answer>yes</answer>")
    asked = ["ask", photo, "Which?", "--depth", depth.replace("DEPTH", str(mine)), "--save", str(folder)]
    code, _, err = run(*asked, policy=policy)
    assert (code, policy.calls, mine.read_bytes()) == (2, 0, before)
    assert said in err
    assert one_sentence(err)


def test_a_name_and_a_question_that_are_not_utf_8_are_answered_and_saved(run: Run, photo: str, tmp_path: Path) -> None:
    odd = shutil.copy(photo, tmp_path / "caf\udce9.png")
    policy = ScriptedPolicy("<answer>yes</answer>")
    folder = tmp_path / "run"
    asked = ["ask", str(odd), "Is it \udce9?", "-m", "direct", "--depth", "none", "--save", str(folder)]
    code, _, err = run(*asked, policy=policy)
    assert (code, err) == (0, "")
    assert "Is it \ufffd?" in policy.heard[0][-1].text
    assert "caf\ufffd.png" in (folder / "report.html").read_text(encoding="utf-8")


def test_an_image_may_come_from_standard_input(run: Run, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(photo).read_bytes())))
    code, out, _ = run("ask", "-", "Which one?", "--depth", "none", "--json")
    assert code == 0
    assert json.loads(out)["answer"] == "the left one"


def png(width: int, height: int) -> bytes:
    """A PNG's head alone: it claims a size that its few bytes do not have."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data, b"IEND")
    )


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((400, 300), 60).save(buffer, "JPEG")
    return buffer.getvalue()[:3000]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("truncated.jpg", truncated_jpeg()),
        ("wide.png", png(8001, 600)),
        ("bomb.png", png(13000, 13000)),
        ("text.png", b"this is no picture"),
        ("empty.png", b""),
        ("strip.png", png(6000, 10)),
    ],
)
def test_a_bad_image_is_one_sentence(run: Run, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    code, out, err = run("ask", str(tmp_path / name), "What is it?")
    assert code == 1
    assert out == ""
    assert one_sentence(err)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.png", "What?"], 1, "nowhere.png"),
        ([".", "What?"], 1, "."),
        (["PHOTO", "  "], 2, "question is empty"),
        (["PHOTO", "What?", "--mode", "zoom"], 2, "'direct', 'internal', 'tools'"),
        (["PHOTO", "What?", "--depth", "image:x.png"], 2, "near"),
        (["PHOTO", "What?", "--set", "device"], 2, "--set KEY=VALUE"),
        (["PHOTO", "What?", "--set", "max_steps=-1"], 2, "max_steps"),
        (["PHOTO", "What?", "--set", "call_timeout=0"], 2, "call_timeout_s"),
        (["PHOTO", "What?", "--save", "PHOTO"], 2, "is a file"),
        (["PHOTO", "What?", "--save", "/proc/nowhere/run"], 2, "cannot be made"),
    ],
)
def test_wrong_use_and_missing_things_are_one_sentence(
    run: Run, photo: str, arguments: list[str], code: int, said: str
) -> None:
    got, out, err = run("ask", *(photo if argument == "PHOTO" else argument for argument in arguments))
    assert got == code
    assert out == ""
    assert said in err
    assert one_sentence(err)


def test_set_reaches_the_run(run: Run, photo: str) -> None:
    line = ["ask", photo, "Which one?", "--depth", "none", "--json"]
    for settings, crops in (([], 2), (["--set", "whole_share=0.01"], 0)):
        code, out, err = run(*line, *settings)
        assert code == 0, err
        assert sum(step["crop_size"] is not None for step in json.loads(out)["steps"]) == crops


def test_what_set_does_not_say_of_the_run_reaches_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(asking, "load_policy", lambda name, **options: seen.update(options))
    asking.chosen_policy("./p", ["device=cpu", "call_timeout_s=300", "max_images=4"])
    assert seen == {"device": "cpu", "max_images": 4}
    assert asking.chosen_policy("./p", ["call_timeout_s=300"]) == "./p"
    assert asking.run_settings(["device=cpu", "call_timeout_s=300"]) == {"call_timeout_s": 300}
    assert asking.run_settings(["call_timeout=9"]) == {"call_timeout_s": 9}, "which is the policy's, too"


def test_an_unknown_policy_names_the_known_forms(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ask", photo, "What?", "--policy", "no such policy"]) == 2
    err = capsys.readouterr().err
    assert one_sentence(err)
    for form in ("embedded", "Qwen/Qwen3-VL-4B-Instruct", "openai:MODEL@"):
        assert form in err


def test_json_mode_says_errors_on_standard_error_alone(run: Run) -> None:
    code, out, err = run("ask", "nowhere.png", "What?", "--json")
    assert (code, out) == (1, "")
    assert one_sentence(err)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_policy_is_asked(run: Run, photo: str) -> None:
    policy = ScriptedPolicy("<answer>yes</answer>")
    run("ask", photo, "What?", "--save", photo, policy=policy)
    assert policy.calls == 0


def test_a_policy_that_fails_is_one_sentence_and_leaves_no_folder(run: Run, photo: str, tmp_path: Path) -> None:
    policy = ScriptedPolicy(PolicyTimeout("The policy took longer than 60 seconds."))
    code, _, err = run("ask", photo, "What?", "--depth", "none", "--save", str(tmp_path / "run"), policy=policy)
    assert code == 1
    assert err == "sifthinker: The policy took longer than 60 seconds.\n"
    assert not (tmp_path / "run").exists()


def test_debug_shows_where_an_error_came_from(run: Run) -> None:
    with pytest.raises(Exception, match="nowhere"):
        run("ask", "nowhere.png", "What?", "--debug")


def test_no_answer_is_exit_code_one_and_still_told(run: Run, photo: str) -> None:
    code, out, err = run("ask", photo, "What?", "--depth", "none", "--json", policy=ScriptedPolicy(""))
    assert code == 1
    assert json.loads(out)["answer"] == ""
    assert one_sentence(err)


def test_an_interrupt_ends_quietly(run: Run, photo: str) -> None:
    def interrupted(messages: object) -> str:
        raise KeyboardInterrupt

    code, _, err = run("ask", photo, "What?", "--depth", "none", policy=ScriptedPolicy(interrupted))
    assert code == 130
    assert err.strip() == ""


def test_the_command_of_a_report_is_understood_again() -> None:
    request = asking.Request(
        image="-odd name.png",
        question='--what\'s "it"?',
        options=["a b", "-c"],
        mode="internal",
        settings=["dtype=auto"],
    )
    typed = shlex.split(request.command())[2:]
    context = cli.typer.main.get_command(cli.app).commands["ask"].make_context("ask", typed)  # type: ignore[attr-defined]
    assert context.params["image"] == request.image
    assert context.params["question"] == request.question
    assert context.params["option"] == request.options
    assert context.params["mode"] == "internal"


def test_a_tool_s_module_may_lie_in_the_current_folder(
    run: Run, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool_of_this_folder.py").write_text(
        "from sifthinker.nodes.tools import Region, visual_tool\n"
        "@visual_tool(always=True)\n"
        "def width_here(region: Region) -> str:\n"
        "    'How wide the crop is.'\n"
        "    return f'{region.crop.width} wide'\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    code, out, err = run("ask", photo, "Which?", "--depth", "none", "--tool", "tool_of_this_folder:width_here")
    assert (code, err) == (0, "")
    assert "36 wide" in out
    assert sys.path == before
    code, _, err = run("ask", photo, "Which?", "--tool", "no_such_module:tool")
    assert code == 2
    assert "No module named 'no_such_module'" in err


def test_settings_are_read_as_what_they_seem() -> None:
    assert asking.read_settings(["device=cuda:1", "rgb_px=512", "uses_depth_image=false", "revision=main"]) == {
        "device": "cuda:1",
        "rgb_px": 512,
        "uses_depth_image": False,
        "revision": "main",
    }
    extra = 'extra_body={"chat_template_kwargs": {"enable_thinking": false}}'
    assert asking.read_settings([extra, "ids=[1, 2]", "name=a: b", "api_key={x}"]) == {
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
        "ids": [1, 2],
        "name": "a: b",
        "api_key": "{x}",
    }


def one_sentence(err: str) -> bool:
    return err.startswith("sifthinker: ") and err.count("\n") == 1 and len(err) > 25 and "Traceback" not in err
