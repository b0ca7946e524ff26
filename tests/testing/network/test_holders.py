# SPDX-License-Identifier: MIT
"""The processes that hold networks: whose they are, when they end, and what they may not do."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.testing.drivers.driver import CannotError
from pyvmm.testing.network import holders, namespace
from pyvmm.testing.network.holders import _MAIN, Holder, Holders
from pyvmm.testing.network.messages import AddAddress, OpenNetwork
from pyvmm.testing.network.networks import Network
from tests.testing.network.ethernet import card

pytestmark = [pytest.mark.slow, pytest.mark.net]

_PATHS = "import json, os, sys; sys.path[:] = json.loads(sys.argv[1])\n"
_OWNER = (
    _PATHS
    + """
import signal
from tests.testing.network.test_holders import pid_of
from pyvmm.testing.network.holders import Holders
from pyvmm.testing.network.networks import Network
with Holders() as holders, Network(holders) as network:
    network.port()
    sleeper = os.fork()
    if sleeper == 0:
        signal.pause()  # It has all descriptors: the channels do not end with their owner.
    print(json.dumps([sleeper, holders._process.pid, pid_of(network._holder)]), flush=True)
    signal.pause()
"""
)
_NOBODY = (
    _PATHS
    + """
import ctypes, pyroute2
from pyvmm.testing.network import holder, namespace
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
# As of a program that nobody has started: execve(2) would set it.
PR_SET_DUMPABLE = 4
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
holder.main(sys.argv[2:])
"""
)


def pid_of(holder: Holder) -> int:
    """Process of a network."""
    lines = Path(f"/proc/self/fdinfo/{holder._pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def await_end(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 60)[0], "it goes on"


def test_with_its_killed_owner_all_of_it_ends() -> None:
    command = [sys.executable, "-c", _OWNER, json.dumps(sys.path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as owner,
        ExitStack() as stack,
    ):
        assert owner.stdout is not None
        sleeper, *processes = json.loads(owner.stdout.readline())
        stack.callback(os.kill, sleeper, signal.SIGKILL)
        pidfds = [os.pidfd_open(pid) for pid in processes]
        for pidfd in pidfds:
            stack.callback(os.close, pidfd)
        assert len(pidfds) == 2
        owner.kill()
        for pidfd in pidfds:
            await_end(pidfd)


def test_networks_need_no_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr(holders, "_MAIN", _NOBODY)
    with Holders() as made, Network(made) as network, card(network.port()) as guest:
        assert len(guest.arp(network.ip)) == 6
        owner = Path(f"/proc/{pid_of(network._holder)}").stat().st_uid
        assert owner == (os.geteuid() or 65534)


def _refusing(refused: dict[int, int], asked: list[int]) -> Callable[[int], None]:
    def unshare(flags: int) -> None:
        asked.append(flags)
        if flags in refused:
            raise OSError(refused[flags], os.strerror(refused[flags]))

    return unshare


_NEWNET = 1 << 30
_NEWUSER_AND_NET = _NEWNET | 1 << 28


def test_root_does_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    unshare = _refusing({_NEWUSER_AND_NET: errno.ENOSPC}, asked)
    monkeypatch.setattr(namespace, "_unshare", unshare)
    namespace.enter_namespace()
    assert asked == [_NEWUSER_AND_NET, _NEWNET]


def test_who_may_do_neither_is_told_what_to_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {_NEWUSER_AND_NET: errno.ENOSPC, _NEWNET: errno.EPERM}
    monkeypatch.setattr(namespace, "_unshare", _refusing(both, []))
    with pytest.raises(HostLacksError) as refused:
        namespace.enter_namespace()
    assert str(refused.value) == (
        "cannot make a network namespace: user namespaces are not allowed: "
        "No space left on device; run as root, or allow user namespaces (sysctl "
        "user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        "kernel.apparmor_restrict_unprivileged_userns)"
    )


def test_a_refusal_of_the_holders_is_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "_MAIN", f"import sys; sys.modules['pyroute2'] = None; {_MAIN}")
    with Holders() as made, pytest.raises(CannotError) as refused:
        Network(made)
    assert str(refused.value) == (
        "cannot use networks on this machine: pyroute2 is not installed (to make a network); "
        "pip install 'pyvmm[net]'"
    )


def test_a_machine_without_taps_is_told_how_to_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "from pyvmm.testing.network.holder import main"
    without = f"import pyvmm.net.taps as taps; taps.DEVICE = '/no/tun'; {own}"
    monkeypatch.setattr(holders, "_MAIN", _MAIN.replace(own, without))
    with Holders() as made, Network(made) as network, pytest.raises(CannotError) as refused:
        network.port()
    assert str(refused.value) == (
        "cannot use networks on this machine: there is no /no/tun (to make the tap port1); "
        "modprobe tun; its mode says who may use it, which udev has as 0666"
    )


def test_one_that_is_killed_is_told_of_and_takes_no_other_along() -> None:
    with Holders() as made, Network(made) as network, Network(made) as other:
        os.kill(pid_of(network._holder), signal.SIGKILL)
        await_end(network._holder._pidfd)
        with pytest.raises(
            InternalError, match="cannot do AddPort in the network: its process has ended"
        ):
            network.port()
        other.port()


def test_one_that_hangs_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "_TO_END", 0.01)
    with Holders() as made:
        network = Network(made)
        pidfd = os.dup(network._holder._pidfd)
        try:
            os.kill(pid_of(network._holder), signal.SIGSTOP)
            network.close()
            await_end(pidfd)
        finally:
            os.close(pidfd)


def test_a_defect_is_told_and_the_network_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    with Holders() as made, Network(made) as network:
        with pytest.raises(InternalError, match="ValueError: 'nonsense' does not appear to be"):
            network.ask(AddAddress("nonsense"))
        network.port()
    assert "Traceback" in capfd.readouterr().err


def test_it_may_be_started_by_who_has_many_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        if before[0] < 1200:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(1200, before[1]), before[1]))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        while (last := os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)) < 1100:
            stack.callback(os.close, last)
        stack.callback(os.close, last)
        with Holders() as made, Network(made) as network, card(network.port()) as guest:
            assert guest.fd > 1024
            assert len(guest.arp(network.ip)) == 6


def test_what_is_no_request_for_it_is_refused() -> None:
    with Holders() as made, Network(made) as network:
        with pytest.raises(UsageError, match="there is no network"):
            made.ask(AddAddress("10.0.0.9/24"))
        with pytest.raises(UsageError, match="this process holds one network"):
            network.ask(OpenNetwork("10.0.0.9/24", 1500))
