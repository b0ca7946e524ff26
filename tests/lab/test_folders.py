# SPDX-License-Identifier: MIT
"""Where state is kept, whatever the environment says, or does not."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.lab.folders import cache_folder, run_folder

NO_NAME = 54321
"""A uid that nobody has."""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/pyvmm"),
        ({"XDG_CACHE_HOME": "/c d'\n,%$#\u00e9", "HOME": "/h"}, "/c d'\n,%$#\u00e9/pyvmm"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/pyvmm"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/pyvmm"),
        ({"XDG_CACHE_HOME": "./c", "HOME": "/h"}, "/h/.cache/pyvmm"),
        ({"XDG_CACHE_HOME": "~/c", "HOME": "/h"}, "/h/.cache/pyvmm"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/pyvmm"),
        ({"HOME": "/h"}, "/h/.cache/pyvmm"),
    ],
)
def test_the_cache_is_where_xdg_says(environment: dict[str, str], expected: str) -> None:
    assert cache_folder(environment) == Path(expected)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "here"}, {"HOME": "~"}])
def test_without_home_the_list_of_users_is_asked(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(environment) == Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "pyvmm")
    monkeypatch.setattr(os, "getuid", lambda: NO_NAME)
    with pytest.raises(HostLacksError, match=f"user {NO_NAME} has no name; set HOME or XDG_CACHE"):
        cache_folder(environment)


@pytest.mark.parametrize("runtime", ["", "relative", "~", "/dev/null", "/proc/nothing", "/proc"])
def test_a_runtime_folder_that_cannot_be_used_is_done_without(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"XDG_RUNTIME_DIR": runtime, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    path = run_folder(environment)
    assert path == tmp_path / "cache" / "pyvmm" / "run"
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["cache"]


def test_the_runtime_folder_is_its_users_alone(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "pyvmm").mkdir()
    (tmp_path / "pyvmm").chmod(0o755)
    assert run_folder(environment) == tmp_path / "pyvmm"
    assert (tmp_path / "pyvmm").stat().st_mode & 0o777 == 0o700


def test_where_nothing_can_be_written_one_line_says_what_to_do() -> None:
    environment = {"XDG_RUNTIME_DIR": "/proc", "XDG_CACHE_HOME": "/dev/null"}
    with pytest.raises(SystemCallError, match=r"/dev/null/pyvmm/run: .*; set XDG_RUNTIME_DIR to"):
        run_folder(environment)
