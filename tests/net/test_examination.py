# SPDX-License-Identifier: MIT
"""Findings of ``pyvmm doctor`` about networks, on hosts that have them and on such as have not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.machine.findings import Verdict
from pyvmm.machine.network import examination
from pyvmm.machine.network.examination import examine_networks
from pyvmm.net.kernel_features import why_no_netem, why_no_nftables
from tests.net.capabilities import without_capabilities

HAS, PARTLY, LACKS = Verdict.HAS, Verdict.PARTLY, Verdict.LACKS
Told = tuple[dict[str, tuple[Verdict, str]], dict[str, tuple[Verdict, str]]]


def told() -> Told:
    """The verdict and the answer of each finding, and the verdict and the reason of each use."""
    findings, consequences = examine_networks()
    return (
        {each.what: (each.verdict, f"{each.answer}; {each.meaning}") for each in findings},
        {each.use: (each.verdict, each.because) for each in consequences},
    )


@pytest.mark.net
def test_a_host_that_has_them() -> None:
    findings, uses = told()
    assert findings["taps"][0] is HAS
    assert findings["network namespaces"] == (
        HAS,
        "made one; boot tests have networks of their own",
    )
    assert (findings["passt"][0] is HAS) <= (shutil.which("passt") is not None)
    assert (findings["vhost-net"][0] is HAS) == os.path.exists("/dev/vhost-net")
    assert (findings["nftables"][0] is HAS) == (why_no_nftables() == "")
    assert (findings["netem"][0] is HAS) == (why_no_netem() == "")
    for use in ("--net tap", "pyvmm net", "networks of boot tests"):
        assert uses[use][0] is HAS


@pytest.mark.net
def test_without_capabilities() -> None:
    findings, uses = without_capabilities(told)
    assert findings["taps"][0] is PARTLY
    assert "without CAP_NET_ADMIN; those that were made" in findings["taps"][1]
    assert uses["--net tap"][0] is PARTLY
    assert uses["pyvmm net"] == (LACKS, "no CAP_NET_ADMIN; no CAP_SYS_ADMIN")
    assert findings["nftables"] == (LACKS, "it needs CAP_NET_ADMIN; no topology can masquerade")
    namespaces = findings["network namespaces"]
    assert namespaces[0] is uses["networks of boot tests"][0]
    assert "in a user namespace" in namespaces[1]


def test_a_host_that_has_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    monkeypatch.setattr(examination, "DEVICE", str(tmp_path / "tun"))
    monkeypatch.setattr(examination, "_VHOST", str(tmp_path / "vhost-net"))
    findings, uses = told()
    assert findings["passt"] == (
        LACKS, "there is no passt; install passt (Debian has it), or give --net tap",
    )  # fmt: skip
    assert findings["taps"] == (
        LACKS, f"{tmp_path}/tun: no such file or directory; no taps: modprobe tun",
    )  # fmt: skip
    assert findings["pyroute2"][1].startswith("not installed; pip install 'pyvmm[net]'")
    assert uses["--net user"] == (LACKS, "passt: there is no passt")
    assert uses["--net tap"] == (LACKS, f"taps: {tmp_path}/tun: no such file or directory")
    assert uses["--net tap,vhost=on"][0] is LACKS
    assert "pyroute2: not installed" in uses["pyvmm net"][1]
    assert "pyroute2: not installed" in uses["networks of boot tests"][1]
    assert {verdict for verdict, _ in uses.values()} == {LACKS}


@pytest.mark.net
def test_a_host_without_taps_has_no_networks_in_boot_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(examination, "DEVICE", str(tmp_path / "tun"))
    findings, uses = told()
    assert findings["network namespaces"][0] is HAS
    answer = f"{tmp_path}/tun: no such file or directory"
    assert uses["networks of boot tests"] == (LACKS, f"taps: {answer}")
    assert uses["pyvmm net"] == (PARTLY, f"without taps: {answer}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "missing"),
    [("--map-root-user", ["CAP_NET_ADMIN"]), ("--net", [])],
    ids=["of others", "its own"],
)
def test_root_of_a_user_namespace_may_change_a_network_namespace(
    option: str, missing: list[str]
) -> None:
    code = "from pyvmm.net.kernel_features import *; print(missing_capabilities())"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", option, sys.executable, "-c", code],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.stdout, done.stderr) == (f"{missing}\n", "")
