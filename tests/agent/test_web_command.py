"""`sifthinker web`: wrong use is told before anything is loaded, and it serves until it is interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
import httpx
from web_serving import scripted_agent

from sifthinker.agent.listening import listen
from sifthinker.agent.web import command
from sifthinker.agent.web.command import run_web
from sifthinker.policy.errors import UsageError


def web(**changed):
    run_web(
        **{
            "host": "127.0.0.1",
            "port": 0,
            "auth": None,
            "no_auth": False,
            "names": [],
            "policy": "embedded",
            "mode": "tools",
            "depth": None,
            "settings": [],
            "open_browser": False,
            **changed,
        }
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0 can be reached from other machines: set a password with --auth"),
        ({"host": "::"}, ":: can be reached from other machines"),
        ({"host": "192.168.1.7"}, "192.168.1.7 can be reached from other machines"),
        ({"auth": "ann"}, "Expected --auth USER:PASSWORD"),
        ({"auth": "ann:"}, "Expected --auth USER:PASSWORD"),
        ({"auth": "ann:x", "no_auth": True}, "Expected either --auth or --no-auth, got both."),
        ({"host": "no-such-host.invalid", "no_auth": True}, "The host 'no-such-host.invalid' cannot be found"),
        ({"policy": "no policy of this name"}, "names no policy"),
        ({"mode": "magic"}, "Expected one of the modes"),
        ({"tools": ["fly"]}, "There is no visual tool 'fly'"),
    ],
)
def test_wrong_use_of_the_command_is_one_sentence(changed, said, monkeypatch):
    monkeypatch.delenv("SIFTHINKER_AUTH", raising=False)
    with pytest.raises(UsageError) as raised:
        web(**changed)
    assert said in str(raised.value)


def test_who_listens_on_every_address_is_told_by_which_one_others_call_it(monkeypatch, capsys):
    class Nothing:
        def run(self, sockets):
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "quiet_server", lambda app, connections: Nothing())
    monkeypatch.setattr(command, "make_agent", lambda **given: scripted_agent("x"))
    for host, told in (("127.0.0.1", False), ("0.0.0.0", True)):
        web(host=host, no_auth=True)
        assert ("Other machines call it by this machine's IP address" in capsys.readouterr().out) == told


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"needs uvicorn, which is not installed: pip install 'sifthinker\[web\]'"):
        web()


def test_the_command_serves_until_it_is_interrupted():
    policy = "openai:none@http://127.0.0.1:9/v1"  # asked nothing here
    program = [sys.executable, "-c", "from sifthinker.agent.cli import main; main()"]
    words = [*program, "web", "--port", "0", "--policy", policy, "--depth", "none", "--mode", "internal"]
    words += ["--set", "box_space=unit"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            said = running.stdout.readline()
            at = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert at, said + running.stderr.read()
            for _ in range(600):
                offer = httpx.get(f"{at[0]}api/offer").json()
                if offer["state"] != "loading":
                    break
                time.sleep(0.1)
            assert (offer["state"], offer["policy"], offer["mode"]) == ("ready", "none", "internal"), offer
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 0
            assert running.stderr.read() == ""
        finally:
            running.kill()


def test_a_port_in_use_is_told_before_anything_is_loaded():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be listened on"):
            web(port=port)
