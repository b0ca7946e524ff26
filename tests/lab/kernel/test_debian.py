# SPDX-License-Identifier: MIT
"""The private apt: what it is told, what it makes of the answers, and that it stays private."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import debian
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.debian import PrivateApt
from pyvmm.lab.kernel.failures import KernelBuildError
from tests.lab.kernel.conftest import FakeHost, Said

DEB = b"not really a package"


@pytest.fixture
def apt(
    host: FakeHost, cache: Cache, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PrivateApt:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_text("")
    monkeypatch.setattr(debian, "KEYRINGS", (keyring,))
    (host.folder / "deb").write_bytes(DEB)
    (host.folder / "has").write_text("trixie-backports")
    (host.folder / "shown").write_text(
        "Package: linux-source-7.3\nVersion: 7.3.4-1\n"
        f"Size: {len(DEB)}\nSHA256: {hashlib.sha256(DEB).hexdigest()}\nDescription: x\n"
    )
    return PrivateApt(cache.root / "apt", Children(0, tmp_path / "log"), said)


def test_everything_that_apt_writes_is_in_our_folder(apt: PrivateApt) -> None:
    text = apt.configuration()
    values = dict(re.findall(r'^(\S+) "(.*)";$', text, re.MULTILINE))
    for name in (
        "Dir::State", "Dir::State::Lists", "Dir::State::status", "Dir::Cache", "Dir::Log",
        "Dir::Etc::sourceparts",
    ):  # fmt: skip
        assert values[name].startswith(str(apt.root)), name
    assert values["Dir::Etc::sourcelist"] == "/dev/null"
    assert "#clear APT::Update::Post-Invoke;" in text
    # The system's proxies and credentials stay in force.
    assert not re.search(r"Proxy|netrc|Etc::parts|Etc::main", text)


def test_the_mirror_and_the_keys_are_the_systems_own(apt: PrivateApt, host: FakeHost) -> None:
    (host.folder / "targets").write_text(
        "Debian|Debian-Security|http://mirror.test/security/\n"
        "Other|Debian|http://other.test/\n"
        "Debian|Debian|http://mirror.test/debian/\n"
    )
    apt.prepare("trixie")
    text = (apt.root / "sources.list.d" / "pyvmm.sources").read_text()
    assert "URIs: http://mirror.test/debian\nSuites: trixie\n" in text
    assert f"Signed-By: {debian.KEYRINGS[0]}\n" in text
    assert apt.root.stat().st_mode & 0o077 == 0
    (host.folder / "targets").write_text("")
    assert apt.mirror() == debian.DEFAULT_MIRROR


def test_the_first_suite_that_has_it_is_taken(apt: PrivateApt, host: FakeHost) -> None:
    found = apt.look_up("7.3")
    assert (found.version, found.suite, found.kernel_version) == (
        "7.3.4-1", "trixie-backports", "7.3.4",
    )  # fmt: skip
    assert len([call for call in host.calls() if "update" in call]) == 1
    (host.folder / "has").write_text("sid")
    assert apt.look_up("7.3").suite == "sid"
    private = [call for call in host.calls() if "indextargets" not in call]
    assert all(f"-c {apt.root}/apt.conf" in call for call in private)


def test_a_series_that_debian_does_not_have(apt: PrivateApt) -> None:
    with pytest.raises(HostLacksError, match=r"has none; it has: 6\.12; choose"):
        apt.look_up("5.5")


@pytest.mark.parametrize("name", ["", "x", "7.3; rm", "7.3.4", "../7.3", "-7.3"])
def test_a_name_that_is_no_series(apt: PrivateApt, host: FakeHost, name: str) -> None:
    with pytest.raises(UsageError):
        apt.look_up(name)
    assert host.calls() == []


def test_no_network_is_one_line(apt: PrivateApt, host: FakeHost) -> None:
    (host.folder / "update-fails").write_text("")
    with pytest.raises(KernelBuildError, match=r"package lists.*E: Failed to fetch everything"):
        apt.look_up("7.3")


def test_no_keyring_and_no_apt(
    apt: PrivateApt, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    apt = PrivateApt(apt.root, Children(0, apt.root / "log"), Said())
    with pytest.raises(HostLacksError, match=r"no apt-get; name a source with --source"):
        apt.look_up("7.3")
    monkeypatch.setattr(debian, "KEYRINGS", (Path("/nowhere"),))
    with pytest.raises(HostLacksError, match="debian-archive-keyring"):
        apt.look_up("7.3")


def test_a_package_is_downloaded_once_and_checked(
    apt: PrivateApt, host: FakeHost, cache: Cache
) -> None:
    wanted = apt.look_up("7.3")
    cache.downloads.mkdir(parents=True)
    (cache.downloads / "linux-source-7.3_7.3.3-1_all.deb").write_text("the one before")
    (cache.downloads / "linux-source-6.12_6.12.1-1_all.deb").write_text("another")
    path = apt.download(wanted, cache.downloads)
    assert path.read_bytes() == DEB
    before = host.calls()
    assert apt.download(wanted, cache.downloads) == path
    assert host.calls() == before
    assert sorted(found.name for found in cache.downloads.iterdir()) == [
        "linux-source-6.12_6.12.1-1_all.deb", "linux-source-7.3_7.3.4-1_all.deb",
    ]  # fmt: skip
    path.write_bytes(b"half of it")
    assert apt.download(wanted, cache.downloads).read_bytes() == DEB


def test_a_package_with_another_checksum_is_refused_and_removed(
    apt: PrivateApt, host: FakeHost, cache: Cache
) -> None:
    wanted = apt.look_up("7.3")
    (host.folder / "deb").write_bytes(DEB + b"!")
    with pytest.raises(KernelBuildError, match="checksum"):
        apt.download(wanted, cache.downloads)
    assert list(cache.downloads.iterdir()) == []
