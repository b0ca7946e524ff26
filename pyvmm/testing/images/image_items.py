# SPDX-License-Identifier: MIT
"""Items of images: a boot for one case, or one boot whose results are all reported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyvmm.testing.boot_defaults import DEFAULT_TIMEOUT
from pyvmm.testing.boots import Boot, Boots
from pyvmm.testing.drivers.driver import Outcome
from pyvmm.testing.explaining.failed_tests import witness_of
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.images.cases import GuestCase
from pyvmm.testing.images.image_lines import ImageLine
from pyvmm.testing.images.source_files import SourceFiles
from pyvmm.testing.request import BootArguments
from pyvmm.testing.results.guest_failures import GuestFailure
from pyvmm.testing.results.tap_results import TapReport, TapStatus
from pyvmm.testing.results.verdicts import judge_case, judge_run, read_results
from pyvmm.testing.session.default_timeout import default_timeout
from pyvmm.testing.session.guest_longrepr import failure_repr
from pyvmm.testing.session.marks import Axes
from pyvmm.testing.session.session_loop import session_loop


class GuestCaseError(AssertionError):
    """A test in a guest has failed: `reason` in a line, and its assertions."""

    def __init__(self, reason: str, failures: tuple[GuestFailure, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.failures = failures


class ImageItem(pytest.Item):
    """An item whose run is one boot of an image."""

    def __init__(self, *, line: ImageLine, axes: Axes | None, **more: Any) -> None:
        super().__init__(**more)
        self.line = line
        self.pyvmm_axes = axes
        # Other plugins look at these of every item.
        self.fixturenames: list[str] = []
        self.funcargs: dict[str, object] = {}

    @property
    def append(self) -> str:
        """Command line of the boot."""
        return self.line.append

    @property
    def limit(self) -> float:
        """Time limit of the boot, in seconds."""
        return self.line.timeout or default_timeout(self) or DEFAULT_TIMEOUT

    def boot(self) -> Boot:
        """A boot, to be entered."""
        line, axes = self.line, self.pyvmm_axes
        arguments = BootArguments(
            append=self.append,
            private=line.private,
            timeout=self.limit,
            crash=True,  # The verdict is made here.
        )
        if line.memory is not None:
            arguments["memory"] = line.memory
        if line.cpus is not None:
            arguments["cpus"] = line.cpus
        if line.initrd is not None:
            arguments["initrd"] = self.config.rootpath / line.initrd
        defaults = None if axes is None else axes.arguments()
        boots = Boots(session_loop(self.config), defaults, witness_of(self))
        return boots(_as_typed(self.path), **arguments)

    def runtest(self) -> None:
        """Boot the guest, wait for its end and judge it. Raises what `judge` raises.

        It is judged while it is there: whoever explains a failure may want to look at it.
        """
        __tracebackhide__ = True
        with self.boot() as vm:
            try:
                outcome: Outcome | None = vm.wait()
            except ExpectError:
                outcome = None
            self.judge(outcome, vm.console.transcript)

    def judge(self, outcome: Outcome | None, said: bytes) -> None:
        """Judge a run by how it ended (None: it did not) and all that the guest said."""
        raise NotImplementedError

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Failed assertions of the guest as pytest shows its own; else as any item."""
        error = excinfo.value
        if not isinstance(error, GuestCaseError):
            return super().repr_failure(excinfo, style)
        path, line, _ = self.reportinfo()
        return failure_repr(
            error.reason,
            error.failures,
            (os.path.relpath(path), (line or 0) + 1),
            self.sources,
        )

    @property
    def sources(self) -> SourceFiles:
        """Source files of the guest."""
        return SourceFiles(self.path, self.config.rootpath)


class CaseItem(ImageItem):
    """A case of an image, in a boot of its own."""

    def __init__(self, *, case: GuestCase, **more: Any) -> None:
        super().__init__(**more)
        self.case = case

    @property
    def append(self) -> str:
        """Command line of the boot: it names the case."""
        return f"{self.line.append} case={self.case.option}".strip()

    def judge(self, outcome: Outcome | None, said: bytes) -> None:
        """Raise `GuestCaseError` where the case has not passed, and pytest's skip and xfail."""
        __tracebackhide__ = True
        verdict = judge_case(self.case.own_name, said, outcome, self.limit)
        match verdict.status:
            case TapStatus.PASSED | TapStatus.XPASSED:
                return
            case TapStatus.SKIPPED:
                raise pytest.skip.Exception(verdict.reason, _use_item_location=True)
            case TapStatus.XFAILED:
                pytest.xfail(verdict.reason)
            case TapStatus.FAILED | TapStatus.CRASHED:
                raise GuestCaseError(verdict.reason, verdict.failures)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Source file and line of the case, where that is here; else the image."""
        source = self.sources.find(self.case.file)
        if source is None:
            return self.path, None, self.name
        return source, self.case.line - 1, self.name


class KtapItem(ImageItem):
    """A guest that prints KTAP or TAP: its run, beside which each of its results is reported."""

    results: TapReport | None = None

    def judge(self, outcome: Outcome | None, said: bytes) -> None:
        """Raise `GuestCaseError` where something else than a result is wrong."""
        __tracebackhide__ = True
        self.results = read_results(said)
        witness_of(self).has_failed_results = bool(self.results.failures)
        reason = judge_run(self.results, said, outcome, self.limit, crash=self.line.crash)
        if reason:
            raise GuestCaseError(reason)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """The image."""
        return self.path, None, self.name


def _as_typed(path: Path) -> str:
    """`path` as people would type it, and never the name of a bundled guest."""
    relative = os.path.relpath(path)
    if relative.startswith(".."):
        return str(path)
    return relative if "/" in relative else f"./{relative}"
