# SPDX-License-Identifier: MIT
"""The pytest plugin, loaded by its entry point: fixtures that boot guests.

Every pytest run in this environment loads it: nothing is imported here but pytest, and the rest by
the first test that asks for a boot.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from pyvmm.testing.session.default_timeout import CALL_BEGAN, TEST_BEGAN, default_timeout

if TYPE_CHECKING:
    from pyvmm.machine.loop_thread import LoopThread
    from pyvmm.testing.async_boots import AsyncBoots
    from pyvmm.testing.boots import Boots
    from pyvmm.testing.explaining.witness import Witness
    from pyvmm.testing.network.async_networks import AsyncNetwork
    from pyvmm.testing.network.holders import Holders
    from pyvmm.testing.network.networks import Network, Networks
    from pyvmm.testing.request import BootArguments, Defaults
    from pyvmm.testing.saved_boots import AsyncBooted, Booted, SavedBoots
    from pyvmm.testing.session.lab_tests import LabTests
    from pyvmm.testing.session.marks import Axes

_MARK = (
    "pyvmm(hosts=[...], memory=[...], cpus=[...]): run the test on each of these hosts (auto, "
    "model, kvm, lab, qemu-tcg, qemu-kvm), with each memory size and number of vCPUs"
)
_LAB_TESTS: pytest.StashKey[LabTests] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("pyvmm", "boot tests (pyvmm)")
    group.addoption(
        "--pyvmm-host", type=_hosts, action="append", metavar="HOST[,HOST]",
        help="hosts that boot tests run on: auto, model, kvm, lab, qemu-tcg, qemu-kvm. A test with "
        "the mark pyvmm(hosts=...) runs on those of them that are in its mark. May be repeated.",
    )  # fmt: skip
    group.addoption(
        "--pyvmm-require", type=_hosts, action="append", metavar="HOST[,HOST]",
        help="hosts that must be here: a test that cannot be done on one of them fails, instead of "
        "being skipped. May be repeated.",
    )  # fmt: skip
    group.addoption(
        "--pyvmm-timeout", type=_seconds, metavar="SECONDS",
        help="time limit of the boots that do not say theirs (default: 60)",
    )  # fmt: skip
    group.addoption(
        "--pyvmm-artifacts", metavar="DIR",
        help="have a folder in DIR for each test that fails: its guests' console, result, events, "
        "explanation, and core for gdb, crash and drgn",
    )  # fmt: skip
    group.addoption(
        "--pyvmm-artifacts-always", action="store_true",
        help="with --pyvmm-artifacts: for each test that boots, failed or not",
    )  # fmt: skip


def _hosts(text: str) -> tuple[str, ...]:
    from pyvmm.testing.session.marks import hosts_option

    return hosts_option(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no time: seconds, a finite number above 0")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; refuse a folder for artifacts that cannot be made or written to."""
    config.addinivalue_line("markers", _MARK)
    folder = config.getoption("--pyvmm-artifacts")
    if folder is not None:
        try:
            place = config.invocation_params.dir / folder
            place.mkdir(parents=True, exist_ok=True)
            os.close(os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                told = f"--pyvmm-artifacts: cannot write to {folder}: {error.strerror}"
                raise pytest.UsageError(told) from None


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test that boots one for each host, memory size and number of vCPUs."""
    if "pyvmm_axes" in metafunc.fixturenames:
        from pyvmm.testing.session.marks import parametrize

        parametrize(metafunc)


@pytest.fixture
def pyvmm_axes(request: pytest.FixtureRequest) -> Axes | None:
    """Host, memory and vCPUs that the test's mark or the command line says; None: nobody does."""
    return getattr(request, "param", None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run the lab's tests in the lab; what only shows their setup is pytest's own."""
    item.stash[TEST_BEGAN] = monotonic()
    if item.config.getoption("setuponly", False) or item.config.getoption("setupplan", False):
        return None
    # Not loaded: no test has said anything of hosts.
    marks = sys.modules.get("pyvmm.testing.session.marks")
    if marks is None or not marks.is_for_lab(item):
        return None
    from pyvmm.testing.drivers.presence import is_in_lab

    if is_in_lab():
        return None
    from pyvmm.testing.session.lab_tests import LabTests, run_in_lab

    tests = item.config.stash.setdefault(_LAB_TESTS, LabTests(item.config))
    run_in_lab(tests, item, nextitem)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the process of the tests in the lab."""
    if _LAB_TESTS in session.config.stash:
        session.config.stash[_LAB_TESTS].finish()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which required hosts no test was on, because the command line leaves them out."""
    required = {name for each in config.getoption("--pyvmm-require") or () for name in each}
    chosen = {name for each in config.getoption("--pyvmm-host") or () for name in each}
    left_out = ", ".join(sorted(required - chosen))
    if left_out and chosen and "auto" not in chosen:
        line = f"pyvmm: --pyvmm-host leaves out what --pyvmm-require has: no test ran on {left_out}"
        terminalreporter.write_line(line)


pytest_plugins = ("pyvmm.testing.images.collecting", "pyvmm.testing.session.reporting")


@pytest.fixture(scope="session")
def _pyvmm_loop(pytestconfig: pytest.Config) -> LoopThread:
    from pyvmm.testing.session.session_loop import session_loop

    return session_loop(pytestconfig)


@pytest.fixture
def _pyvmm_defaults(request: pytest.FixtureRequest, pyvmm_axes: Axes | None) -> Defaults:
    def defaults(said: BootArguments) -> BootArguments:
        """Arguments of a boot that begins now, and says `said` itself."""
        if "host" in said:
            from pyvmm.testing.session.marks import skip_if_not_chosen

            skip_if_not_chosen(said["host"], request.config.getoption("--pyvmm-host"))
        arguments: BootArguments = {} if pyvmm_axes is None else pyvmm_axes.arguments()
        timeout = default_timeout(request.node)
        if timeout is not None:
            arguments["timeout"] = timeout
        return arguments

    return defaults


@pytest.fixture
def _pyvmm_witness(request: pytest.FixtureRequest) -> Witness:
    from pyvmm.testing.explaining.failed_tests import witness_of

    return witness_of(request.node)


@pytest.fixture(scope="session")
def session_boot(request: pytest.FixtureRequest, _pyvmm_loop: LoopThread) -> Iterator[Boots]:
    """Boot guests in fixtures of a module's or session's scope: as ``boot``. Gone at the end."""
    from pyvmm.testing.boots import Boots
    from pyvmm.testing.explaining.failed_tests import witness_of_session

    with closing(Boots(_pyvmm_loop, witness=witness_of_session(request.session))) as boots:
        yield boots


@pytest.fixture
def boot(
    _pyvmm_loop: LoopThread, _pyvmm_defaults: Defaults, _pyvmm_witness: Witness
) -> Iterator[Boots]:
    """Boot guests: ``with boot("exit", append="9") as vm:``. Gone when the test is over."""
    from pyvmm.testing.boots import Boots

    with closing(Boots(_pyvmm_loop, _pyvmm_defaults, _pyvmm_witness)) as boots:
        yield boots


@pytest.fixture
def async_boot(_pyvmm_defaults: Defaults, _pyvmm_witness: Witness) -> Iterator[AsyncBoots]:
    """Boot guests in a trio test: ``async with async_boot("exit", append="9") as vm:``."""
    from pyvmm.testing.async_boots import AsyncBoots

    with closing(AsyncBoots(_pyvmm_defaults, _pyvmm_witness)) as boots:
        yield boots


@pytest.fixture(scope="session")
def _pyvmm_holders() -> Iterator[Holders]:
    from pyvmm.testing.network.holders import Holders

    with Holders() as holders:
        yield holders


@pytest.fixture
def networks(_pyvmm_holders: Holders, _pyvmm_witness: Witness) -> Iterator[Networks]:
    """Make networks: ``networks("192.0.2.0/24")``. Gone when the test is over."""
    from pyvmm.testing.network.networks import Networks

    has_artifacts = _pyvmm_witness.core_path is not None
    recordings = _pyvmm_witness.recordings if has_artifacts else None
    with Networks(_pyvmm_holders, recordings) as networks:
        yield networks


@pytest.fixture
def network(networks: Networks) -> Network:
    """Connect guests: ``boot(..., net=network.port())``. Gone when the test is over."""
    return networks()


@pytest.fixture
def async_network(network: Network) -> AsyncNetwork:
    """Connect guests in a trio test: ``async_boot(..., net=await async_network.port())``."""
    from pyvmm.testing.network.async_networks import AsyncNetwork

    return AsyncNetwork(network)


@pytest.fixture(scope="session")
def _pyvmm_saved_boots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SavedBoots]:
    from pyvmm.testing.saved_boots import SavedBoots

    base = tmp_path_factory.getbasetemp()
    # A local worker of pytest-xdist has its folder in the session's. One by ssh, or in the lab, has
    # its own: what that is in is shared by all sessions of a user.
    worker = getattr(request.config, "workerinput", {}).get("workerid")
    shared = base.parent if base.name == f"popen-{worker}" else base
    with SavedBoots(shared / "pyvmm-saved-boots") as saved:
        yield saved


@pytest.fixture
def booted(
    request: pytest.FixtureRequest,
    _pyvmm_loop: LoopThread,
    _pyvmm_saved_boots: SavedBoots,
    _pyvmm_defaults: Defaults,
    _pyvmm_witness: Witness,
) -> Iterator[Booted]:
    """Start behind a boot: ``with booted("echo", until="ready") as vm:``.

    The session boots such a guest once, and restores it for each test. Clones of one boot share
    whatever randomness their guest had collected.
    """
    from pyvmm.testing.saved_boots import Booted

    with closing(
        Booted(
            _pyvmm_loop,
            _pyvmm_saved_boots,
            _teller(request.node),
            _pyvmm_defaults,
            witness=_pyvmm_witness,
        )
    ) as booted:
        yield booted


@pytest.fixture
def async_booted(
    request: pytest.FixtureRequest,
    _pyvmm_saved_boots: SavedBoots,
    _pyvmm_defaults: Defaults,
    _pyvmm_witness: Witness,
) -> Iterator[AsyncBooted]:
    """Start behind a boot in a trio test: ``async with async_booted("echo", until=...) as vm:``."""
    from pyvmm.testing.saved_boots import AsyncBooted

    with closing(
        AsyncBooted(
            _pyvmm_saved_boots, _teller(request.node), _pyvmm_defaults, witness=_pyvmm_witness
        )
    ) as booted:
        yield booted


def _teller(item: pytest.Item) -> Callable[[str], None]:
    """Function that adds a line to a test's report."""
    return lambda line: item.add_report_section("call", "boot", line + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have a failed test's report explain what its guests came to."""
    report = yield
    failed_tests = sys.modules.get("pyvmm.testing.explaining.failed_tests")
    if failed_tests is not None:
        failed_tests.explain_report(item, report, call.excinfo and call.excinfo.value)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test whose fixtures ask for what its host cannot do."""
    try:
        return (yield)
    except BaseException as failure:
        _skip_if_it_cannot(item, failure)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test that asks for what its host cannot do."""
    item.stash[CALL_BEGAN] = monotonic()
    try:
        return (yield)
    except BaseException as failure:
        _skip_if_it_cannot(item, failure)
        raise


def _skip_if_it_cannot(item: pytest.Item, failure: BaseException) -> None:
    """Raise a skip with the reason where `failure` is a `CannotError` and nothing else.

    It is a failure where the host is required.
    """
    driver = sys.modules.get("pyvmm.testing.drivers.driver")
    if driver is None:
        return
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, driver.CannotError):
        from pyvmm.testing.session.marks import axes_of, named, refusal

        required = named(item.config.getoption("pyvmm_require"))
        raise refusal(failure, axes_of(item), required) from None
