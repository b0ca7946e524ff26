# SPDX-License-Identifier: MIT
"""`pyvmm lab status` lists the kernels in the cache, and says which have to be built again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.cli import lab
from pyvmm.cli.main import _Parser
from pyvmm.errors import ExitCode
from pyvmm.lab.kernel import known_changes
from pyvmm.lab.kernel.cache import Cache, is_current
from pyvmm.lab.kernel.configuration import lab_fragment
from tests.lab.kernel.test_cache import put
from tests.lab.kernel.test_manifest_and_image import MANIFEST

CHANGE = "memslot-pins-file"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return Cache(tmp_path / "cache" / "pyvmm" / "lab")


def status(*words: str) -> int:
    parser = _Parser()
    lab.add_arguments(parser)
    options = parser.parse_args(["status", *words])
    code: int = options.call(options)
    return code


def test_no_kernel(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert status() == ExitCode.HOST_LACKS
    assert capsys.readouterr().out == "no lab is up\nno kernel is built\n"
    assert status("--json") == ExitCode.HOST_LACKS
    assert json.loads(capsys.readouterr().out) == {"up": False, "kernels": []}


def test_each_kernel_has_a_line(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    put(cache)
    put(cache, "6.12", "6.12.1", config_hash="another")
    put(cache, "6.1.9-mine", "6.1.9-mine", config_hash="")
    put(cache, CHANGE, change=known_changes.named(CHANGE).identity)
    put(cache, "mine", "7.9.0", tree="/home/me/li\nnux")
    assert status() == ExitCode.HOST_LACKS
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["no lab is up", "kernels:"]
    assert sorted(lines[2:]) == [
        "  6.1.9-mine         Linux 6.1.9-mine, taken over",
        "  6.12               Linux 6.12.1, out of date: build it again",
        "  7.3                Linux 7.3.4",
        "  memslot-pins-file  Linux 7.3.4, with a change",
        r"  mine               Linux 7.9.0, of /home/me/li\x0anux",
    ]
    assert status("--json") == ExitCode.HOST_LACKS
    kernels = {one["name"]: one for one in json.loads(capsys.readouterr().out)["kernels"]}
    assert {name for name, one in kernels.items() if not one["current"]} == {"6.12"}
    assert kernels["mine"]["tree"] == "/home/me/li\nnux"
    assert kernels["7.3"]["path"].endswith("/vmlinux")


def test_a_kernel_with_a_change_of_another_text_is_out_of_date() -> None:
    manifest = replace(MANIFEST, config_hash=lab_fragment().hash)
    assert is_current(manifest)
    assert is_current(replace(manifest, change=known_changes.named(CHANGE).identity))
    assert not is_current(replace(manifest, change=f"{CHANGE} (0123456789abcdef)"))
    assert not is_current(replace(manifest, change="gone-by-now (0123456789abcdef)"))
