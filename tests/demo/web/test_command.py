# SPDX-License-Identifier: MIT
"""``pyvmm demo --web`` as a command: its options, its URL, its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.errors import ExitCode


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "8000"), "--port goes with --web"),
        (("--lecture",), "--lecture goes with --web"),
        (("--web", "--port", "0"), "0 is no port"),
        (("--web", "--port", "-1"), "-1 is no port"),
        (("--web", "--port", "65536"), "65536 is no port"),
        (("--web", "--port", "http"), "--port"),
        (("--web", "--html", "x.html"), "--html"),
        (("--web", "slotz"), "did you mean slots"),
    ],
)
def test_options_that_do_not_fit(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == ExitCode.USAGE
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main(["demo", "--web", "--host", "model", "--port", str(port)])
        assert code == ExitCode.SYSTEM_CALL
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert f"port {port}" in written
    assert "--port N" in written


_WITHOUT = """
import sys
from pyvmm.cli.main import main
for name in ("h11", "websockets"):
    sys.modules[name] = None
    print(main(["demo", "--web"]))
    del sys.modules[name]
"""


@pytest.mark.slow
def test_without_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{ExitCode.HOST_LACKS:d}\n" * 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for name, line in zip(("h11", "websockets"), lines, strict=True):
        assert f"{name} is not installed; pip install 'pyvmm[web]'" in line


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("ends_it", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_nothing_is_left(ends_it: signal.Signals) -> None:
    command = [sys.executable, "-m", "pyvmm", "demo", "--web", "--lecture", "--host", "model"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        teacher, followers = server.stdout.readline(), server.stdout.readline()
        found = re.fullmatch(r"teacher: +(http://127\.0\.0\.1:\d+)/#([\w-]{32})\n", teacher)
        assert found is not None
        assert re.fullmatch(rf"followers: {found[1]}/#[\w-]{{32}}\n", followers)
        assert found[2] not in followers
        request = urllib.request.Request(
            f"{found[1]}/enter", found[2].encode(), {"Origin": found[1]}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 204
        while not (own := children(server.pid)):
            assert server.poll() is None
        server.send_signal(ends_it)
        out, err = server.communicate(timeout=60)
    assert server.returncode == ExitCode.INTERRUPTED
    assert (out, err) == ("", f"pyvmm: interrupted by {ends_it.name}\n")
    for pid in own:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
