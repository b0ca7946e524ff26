# SPDX-License-Identifier: MIT
"""Entries: published whole, found by name, checked when used; and one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.lab.kernel import Kernel, find
from pyvmm.lab.kernel.cache import Cache, default_root, entry_key, sha256
from pyvmm.lab.kernel.configuration import lab_fragment
from pyvmm.lab.kernel.failures import CorruptEntryError
from tests.lab.kernel.test_manifest_and_image import MANIFEST


def put(cache: Cache, name: str = "7.3", version: str = "7.3.4", **changes: Any) -> Kernel:
    cache.work.mkdir(parents=True, exist_ok=True)
    image = cache.work / "image"
    image.write_bytes(b"kernel " + version.encode())
    manifest = replace(
        MANIFEST, name=name, version=version, sha256=sha256(image), size=image.stat().st_size,
        **{"config_hash": lab_fragment().hash, **changes},
    )  # fmt: skip
    key = entry_key(name, version, manifest.source, manifest.config_hash, manifest.compiler)
    return cache.publish(key, image, manifest)


def test_a_key_is_as_different_as_what_it_is_made_of() -> None:
    base = ("7.3", "7.3.4", "debian", "hash", "gcc")
    others = {
        entry_key(*base[:place], base[place] + "x", *base[place + 1 :])  # type: ignore[call-arg]
        for place in range(len(base))
    }
    assert len(others | {entry_key(*base)}) == 6
    assert entry_key(*base) == entry_key(*base)
    assert "/" not in entry_key("../../x", *base[1:])


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "pyvmm" / "lab"


def test_an_empty_cache_says_what_to_do(cache: Cache) -> None:
    with pytest.raises(HostLacksError, match=r"none is built; run pyvmm lab build$"):
        find(root=cache.root)
    put(cache)
    with pytest.raises(
        HostLacksError, match=r"there are: 7\.3.*run pyvmm lab build --kernel 6\.12"
    ):
        find("6.12", root=cache.root)


def test_kernels_are_found_by_name_and_the_newest_without(cache: Cache) -> None:
    put(cache, "6.12", "6.12.107")
    put(cache, "7.3", "7.3.4")
    put(cache, "7.3", "7.3.10")
    taken = put(cache, "9.9.9-mine", "9.9.9-mine", config_hash="")
    assert find("6.12", root=cache.root).manifest.version == "6.12.107"
    assert find("7.3", root=cache.root).manifest.version == "7.3.10"
    assert find(root=cache.root).manifest.version == "7.3.10", "one that was built here comes first"
    assert find("9.9.9-mine", root=cache.root) == taken
    assert taken.path.read_bytes() == b"kernel 9.9.9-mine"


def test_a_kernel_of_another_configuration_does_not_count(cache: Cache) -> None:
    put(cache, config_hash="other")
    with pytest.raises(HostLacksError, match="another configuration"):
        find("7.3", root=cache.root)


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_a_damaged_entry_is_noticed_and_removed(cache: Cache, damage: str) -> None:
    kernel = put(cache)
    match damage:
        case "flip":
            kernel.path.write_bytes(kernel.path.read_bytes()[:-1] + b"x")
        case "shorten":
            kernel.path.write_bytes(b"")
        case "remove":
            kernel.path.unlink()
    with pytest.raises(CorruptEntryError, match=r"damaged.*run pyvmm lab build --kernel 7\.3"):
        find("7.3", root=cache.root)
    assert not kernel.path.parent.exists()
    assert list(cache.kernels.iterdir()) == []


def test_what_is_no_entry_is_passed_over(cache: Cache) -> None:
    put(cache)
    (cache.kernels / "empty").mkdir()
    (cache.kernels / "file").write_text("")
    (cache.kernels / "bytes").mkdir()
    (cache.kernels / "bytes" / "manifest.json").write_bytes(b"\xff\xfe")
    assert [manifest.name for _, manifest in cache.entries()] == ["7.3"]


def test_publishing_again_replaces(cache: Cache) -> None:
    first = put(cache)
    second = put(cache, built_at="later")
    assert first.path == second.path
    assert find("7.3", root=cache.root).manifest.built_at == "later"
    assert [path.name for path in cache.kernels.iterdir()] == [second.path.parent.name]


def test_the_lock_removes_what_was_left_half_done(cache: Cache) -> None:
    put(cache)
    (cache.kernels / ".new-1-x").mkdir()
    (cache.kernels / ".removed-1-x").mkdir()
    with cache.locked(lambda _: None):
        assert len(list(cache.kernels.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(
            SystemCallError, match="Not a directory; set XDG_CACHE_HOME to a folder of yours"
        ),
        Cache(tmp_path / "file" / "cache").locked(lambda _: None),
    ):
        pass


HOLDER = """
import subprocess, sys
from pathlib import Path
from pyvmm.lab.kernel.cache import Cache
with Cache(Path(sys.argv[1])).locked(print) as lock:
    if sys.argv[2:] == ["child"]:
        child = subprocess.Popen(["sleep", "600"], pass_fds=(lock,), stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
    else:
        print("locked", flush=True)
    sys.stdin.read()
"""


def holder(cache: Cache, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache.root), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_second_writer_waits_for_the_first(cache: Cache) -> None:
    with holder(cache) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        waited = []

        def on_wait(text: str) -> None:
            waited.append(text)
            assert other.stdin is not None
            other.stdin.close()

        with cache.locked(on_wait):
            assert other.wait(10) == 0
        assert len(waited) == 1
        assert f"process {other.pid}" in waited[0]


def test_children_keep_the_lock_of_a_parent_that_was_killed(cache: Cache) -> None:
    with holder(cache, "child") as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        other.kill()
        other.wait(10)
        waited = []

        def on_wait(text: str) -> None:
            waited.append(text)
            os.kill(child, signal.SIGKILL)

        with cache.locked(on_wait):
            assert waited, "the child holds the lock"
