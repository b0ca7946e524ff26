# SPDX-License-Identifier: MIT
"""Examining a host's networking: what it can do, and why not. By trying, where nobody sees it.

What is made for that is in a network namespace of its own, and goes with it.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Final

from pyvmm.errors import PyvmmError
from pyvmm.machine.findings import Consequence, Finding, Verdict
from pyvmm.net.kernel_features import missing_capabilities, why_no_netem, why_no_nftables
from pyvmm.net.namespaces import new_namespace, within
from pyvmm.net.passt import open_passt
from pyvmm.net.taps import DEVICE, make_tap

_VHOST: Final = "/dev/vhost-net"
_UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--net", "true")
_PATIENCE: Final = 5.0
"""Seconds for a program that does nothing."""


def examine_networks() -> tuple[tuple[Finding, ...], tuple[Consequence, ...]]:
    """Find what networks this host can have, and what follows. Never raises."""
    links, taps, boots = _pyroute2(), _taps(), _namespaces()
    user = _passt()
    vhost = _vhost()
    masquerading = _named(
        "nftables", why_no_nftables(), "topologies can masquerade", "no topology can masquerade"
    )
    netem = _named(
        "netem", why_no_netem(), "links can lose and delay packets", "no link can lose packets"
    )
    findings = (user, taps, links, boots, vhost, masquerading, netem)
    return findings, tuple(_consequences(user, taps, links, boots, vhost))


def _named(what: str, why_not: str, yes: str, no: str) -> Finding:
    verdict = Verdict.LACKS if why_not else Verdict.HAS
    return Finding(what, verdict, why_not or "yes", no if why_not else yes)


def _passt() -> Finding:
    """Start one that serves nobody."""
    try:
        open_passt().close()
    except PyvmmError as error:
        why = error.cause
        return Finding("passt", Verdict.LACKS, why, error.remedy or "no network without privilege")
    return Finding("passt", Verdict.HAS, "it starts", "networks that need no privilege")


def _taps() -> Finding:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        answer = f"{DEVICE}: {(error.strerror or '').lower()}"
        meaning = "modprobe tun" if error.errno != errno.EACCES else "only root may make it yours"
        return Finding("taps", Verdict.LACKS, answer, f"no taps: {meaning}")
    if "CAP_NET_ADMIN" in missing_capabilities():
        meaning = f"those that were made for you (ip tuntap add NAME mode tap user {os.getuid()})"
        return Finding("taps", Verdict.PARTLY, "without CAP_NET_ADMIN", meaning)
    try:
        namespace = new_namespace()
    except PyvmmError:
        return Finding("taps", Verdict.HAS, "CAP_NET_ADMIN", "a run makes its own")
    try:
        made = within(namespace, partial(make_tap, None))
        for fd in made.fds if made else ():
            os.close(fd)
    except PyvmmError as error:
        return Finding("taps", Verdict.LACKS, error.cause, error.remedy)
    finally:
        os.close(namespace)
    return Finding("taps", Verdict.HAS, "made one", "a run makes its own")


def _pyroute2() -> Finding:
    if importlib.util.find_spec("pyroute2") is None:
        meaning = "pip install 'pyvmm[net]': taps that are there already do without"
        return Finding("pyroute2", Verdict.LACKS, "not installed", meaning)
    return Finding("pyroute2", Verdict.HAS, "installed", "sets taps, bridges and topologies up")


def _namespaces() -> Finding:
    what, meaning = "network namespaces", "boot tests have networks of their own"
    try:
        os.close(new_namespace())
    except PyvmmError as error:
        why = error.cause
    else:
        return Finding(what, Verdict.HAS, "made one", meaning)
    try:
        done = subprocess.run(
            _UNSHARE, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            what, Verdict.LACKS, f"{why}; in a user namespace: {error}", f"not: {meaning}"
        )
    if done.returncode == 0:
        return Finding(what, Verdict.HAS, "made one in a user namespace", meaning)
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["refused"]
    answer = f"{why}; in a user namespace: {said[0]}"
    remedy = "sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces"
    return Finding(what, Verdict.LACKS, answer, f"boot tests have no networks: {remedy}")


def _vhost() -> Finding:
    try:
        os.close(os.open(_VHOST, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        meaning = "frames of taps go through this process"
        answer = f"{_VHOST}: {(error.strerror or '').lower()}"
        return Finding("vhost-net", Verdict.LACKS, answer, meaning)
    return Finding("vhost-net", Verdict.HAS, "yes", "the kernel moves the frames of taps")


def _lacking(*findings: Finding) -> list[str]:
    return [f"{each.what}: {each.answer}" for each in findings if each.verdict is Verdict.LACKS]


def _consequences(
    user: Finding, taps: Finding, links: Finding, boots: Finding, vhost: Finding
) -> Iterator[Consequence]:
    yield _follows("--net user", user, "passt is there")
    if taps.verdict is Verdict.HAS and links.verdict is Verdict.LACKS:
        yield Consequence("--net tap", Verdict.PARTLY, "with taps that are there: no pyroute2")
    else:
        yield _follows("--net tap", taps, "a run makes its tap, by pyroute2")
    lacking = _lacking(taps, vhost)
    yield Consequence(
        "--net tap,vhost=on",
        Verdict.LACKS if lacking else taps.verdict,
        "; ".join(lacking) or "the kernel has vhost-net, for guests without private memory",
    )
    lacking = [*(f"no {each}" for each in missing_capabilities()), *_lacking(links)]
    if not lacking and taps.verdict is Verdict.LACKS:
        yield Consequence("pyvmm net", Verdict.PARTLY, f"without taps: {taps.answer}")
    else:
        yield Consequence(
            "pyvmm net",
            Verdict.LACKS if lacking else Verdict.HAS,
            "; ".join(lacking) or "it may make namespaces and links",
        )
    lacking = _lacking(boots, links, taps)
    yield Consequence(
        "networks of boot tests",
        Verdict.LACKS if lacking else Verdict.HAS,
        "; ".join(lacking) or "in namespaces of their own",
    )


def _follows(use: str, finding: Finding, because: str) -> Consequence:
    if finding.verdict is not Verdict.HAS:
        because = f"{finding.what}: {finding.answer}"
    return Consequence(use, finding.verdict, because)
