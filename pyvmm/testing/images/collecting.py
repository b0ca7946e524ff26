# SPDX-License-Identifier: MIT
"""Images as files of tests: collected without a boot, an item for each case, or one for all.

Part of the plugin: imports pytest and nothing of pyvmm that costs anything until an image is seen.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.testing.session.ktap_reports import CARRIED, Unfolding, carried

if TYPE_CHECKING:
    from pyvmm.testing.images.cases import GuestCase
    from pyvmm.testing.images.image_items import CaseItem, KtapItem
    from pyvmm.testing.images.image_lines import ImageLine
    from pyvmm.testing.session.marks import Axes

_LINES = pytest.StashKey["list[ImageLine]"]()
_HEAD = 4096
"""Bytes of a file that are looked at for a zero, which no text has."""
_ELF = b"\x7fELF"
_NOTE_OF_A_GUEST = b"Xen\0"
"""Within the PVH note, without which an ELF file is an ordinary program."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what says which images are files of tests."""
    parser.addini(
        "pyvmm_images",
        "images that are collected as files of tests, a line each: "
        "GLOB [ktap] [crash] [private] [append=TEXT] [memory=SIZE] [cpus=N] [timeout=SECONDS] "
        "[host=HOST[,HOST]] [initrd=FILE]",
        type="linelist",
    )
    group = parser.getgroup("pyvmm", "guests booted by pyvmm")
    group.addoption(
        "--pyvmm-ktap",
        action="store_true",
        help="images that are given print KTAP or TAP: one boot each, a report for each result",
    )
    group.addoption(
        "--pyvmm-images",
        action="append",
        default=[],
        metavar="LINE",
        help="a line more, before those of the ini option pyvmm_images",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the lines; unfold results where reports are written, not in a worker of pytest-xdist."""
    if _has_lines(config):
        _lines(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Unfolding(config), "pyvmm-unfolding")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the report of a boot with many results carry them."""
    report = yield
    results = getattr(item, "results", None)
    if call.when == "call" and results is not None and isinstance(item.parent, ImageFile):
        setattr(report, CARRIED, carried(item.path, results))
    return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect an image that was given, or that a line of ``pyvmm_images`` matches."""
    config = parent.config
    is_given = parent.session.isinitpath(file_path)
    has_lines = _has_lines(config)
    if not is_given and not has_lines:
        return None
    from pyvmm.testing.images.image_lines import ImageLine, find_line

    line = find_line(_lines(config), file_path, config.rootpath) if has_lines else None
    if line is None:
        if not is_given:
            return None
        line = ImageLine("", is_ktap=config.getoption("--pyvmm-ktap"))
        if not (_is_binary(file_path) if line.is_ktap else _may_be_guest(file_path)):
            return None
    more: dict[str, Any] = {"line": line}
    if not file_path.is_relative_to(config.rootpath):
        # pytest itself would call every such file "".
        more["nodeid"] = file_path.as_posix()
    collector: pytest.Collector = ImageFile.from_parent(parent, path=file_path, **more)
    return collector


def _has_lines(config: pytest.Config) -> bool:
    return bool(config.getini("pyvmm_images") or config.getoption("--pyvmm-images"))


def _lines(config: pytest.Config) -> list[ImageLine]:
    """The lines, read once. Raises pytest's usage error for one that is none."""
    lines = config.stash.get(_LINES, None)
    if lines is None:
        from pyvmm.errors import UsageError
        from pyvmm.testing.images.image_lines import read_line

        written = [*config.getoption("--pyvmm-images"), *config.getini("pyvmm_images")]
        try:
            lines = [read_line(each) for each in written]
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[_LINES] = lines
    return lines


def _is_binary(path: Path) -> bool:
    """Tell whether `path` may be an image: Python's files and other texts are not."""
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(_HEAD)
    except OSError:
        return False


def _may_be_guest(path: Path) -> bool:
    """Tell whether `path` lists test cases, or is a guest that says so in an ELF note.

    Other programs are left to other plugins.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                return False
        content = path.read_bytes()
    except OSError:
        return False
    from pyvmm.testing.images.cases import SECTION

    return SECTION.encode() in content or _NOTE_OF_A_GUEST in content


class ImageFile(pytest.File):
    """An image: its cases, or one item whose boot gives all results."""

    def __init__(self, *, line: ImageLine, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.line = line

    def collect(self) -> Iterable[CaseItem | KtapItem]:
        """List the cases, in their order. Raises `CollectError` with one line."""
        from pyvmm.testing.images.image_items import CaseItem, KtapItem

        places = self._places()
        items: list[CaseItem | KtapItem] = []
        for case in (None,) if self.line.is_ktap else self._cases():
            for axes, suffix, marks in places:
                more: dict[str, Any] = {"line": self.line, "axes": axes}
                item: CaseItem | KtapItem
                if case is None:
                    item = KtapItem.from_parent(self, name=f"boot{suffix}", **more)
                    self._failed_before(item)
                else:
                    name = f"{case.name}{suffix}"
                    item = CaseItem.from_parent(self, name=name, case=case, **more)
                for mark in marks:
                    item.add_marker(mark)
                items.append(item)
        return items

    def _cases(self) -> tuple[GuestCase, ...]:
        from pyvmm.errors import PyvmmError
        from pyvmm.testing.images.cases import list_cases

        shown = os.path.relpath(self.path, self.config.invocation_params.dir)
        attempt = f"list the test cases of {shown}"
        try:
            cases = list_cases(self.path.read_bytes(), attempt)
        except OSError as error:
            raise self.CollectError(f"cannot {attempt}: {error.strerror}") from None
        except PyvmmError as error:
            raise self.CollectError(str(error)) from None
        if cases is None:
            raise self.CollectError(
                f"cannot {attempt}: it has no section .pyvmm.cases; link test cases into it "
                "(guest/include/cases.h), or say --pyvmm-ktap where it prints KTAP or TAP"
            )
        return cases

    def _failed_before(self, item: pytest.Item) -> None:
        """Have ``--lf`` run a boot again whose results failed: it knows only these."""
        plugin = self.config.pluginmanager.get_plugin("lfplugin")
        known = getattr(plugin, "lastfailed", None)
        if known and any(str(name).startswith(f"{self.nodeid}::") for name in known):
            # Since pytest 9.2 names are values of a class of their own.
            known[getattr(item, "id", item.nodeid)] = True

    def _places(self) -> list[tuple[Axes | None, str, Iterable[pytest.MarkDecorator]]]:
        """Hosts that the line or the command line says; what they add to a name, and marks."""
        from pyvmm.testing.session.marks import Axes, MarkWords, named, parameters

        chosen = named(self.config.getoption("pyvmm_host"))
        places: list[tuple[Axes | None, str, Iterable[pytest.MarkDecorator]]] = []
        for one in parameters(MarkWords(hosts=self.line.hosts), chosen):
            axes = one.values[0]
            assert isinstance(axes, Axes)
            marks = [mark for mark in one.marks if isinstance(mark, pytest.MarkDecorator)]
            places.append((axes, f"[{one.id}]", marks))
        return places or [(None, "", ())]
