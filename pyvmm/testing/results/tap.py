# SPDX-License-Identifier: MIT
"""Streams of KTAP and TAP 13 and 14, on a console among anything else, to results. Pure.

Never raises for what a guest prints. It believes no more than was said: a planned result that did
not come has crashed (as for linux's tools/testing/kunit/kunit_parser.py), no result at all is no
pass, and a parent that fails while all below it passed fails by itself.
"""

from __future__ import annotations

import re

from pyvmm.testing.results.tap_lines import find_version
from pyvmm.testing.results.tap_results import TapReport, TapResult, report_of, results_of
from pyvmm.testing.results.tap_stream import TapStream

LINE_LIMIT = 16 << 10
"""Bytes of a line that are looked at: output may be without end and without a newline."""

_TIMESTAMP = re.compile(r"(?:<\d{1,3}>)?\[ *\d+\.\d{3,9}\](?:\[ *[A-Z]\d+\])? ?")
"""Of printk, with what CONFIG_PRINTK_CALLER adds."""
_VARYING = re.compile(r"[0-9 ]")


class TapParser:
    """Results of what a guest prints, as it comes, in pieces of any size.

    Lines that begin with a timestamp of printk are a stream of their own: what a kernel tests and
    what its user space tests may be said at once, on one console.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._is_too_long = False
        self._of_kernel = _PrefixedStream()
        self._plain = _PrefixedStream()

    def feed(self, data: bytes) -> None:
        """Take what came next, a part of a line or many lines."""
        *lines, last = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._end_line()
        self._keep(last)

    @property
    def has_begun(self) -> bool:
        """Tell whether a version line has come."""
        return self._of_kernel.stream.has_begun or self._plain.stream.has_begun

    @property
    def is_complete(self) -> bool:
        """Tell whether all has come that was planned, or the guest has given up (bail out)."""
        begun = [each.stream for each in (self._of_kernel, self._plain) if each.stream.has_begun]
        return bool(begun) and all(each.is_complete for each in begun)

    def results(self) -> tuple[TapResult, ...]:
        """Results so far; those below a test that has not ended are under ``?`` if it has no name.

        Nothing counts as missing yet.
        """
        return results_of([*self._of_kernel.stream.nodes(), *self._plain.stream.nodes()])

    def finish(self) -> TapReport:
        """End of the output: what is missing has crashed. Nothing is fed afterwards."""
        if self._rest:
            self._end_line()
        streams = [self._of_kernel.stream, self._plain.stream]
        for stream in streams:
            stream.finish()
        nodes = [node for stream in streams for node in stream.nodes()]
        problems = [problem for stream in streams for problem in stream.problems]
        if not self.has_begun:
            problems.append('no version line of KTAP or TAP came ("KTAP version 1")')
        return report_of(nodes, problems)

    def _keep(self, data: bytes) -> None:
        self._rest += data[: LINE_LIMIT - len(self._rest)]

    def _end_line(self) -> None:
        text = self._rest.decode("utf-8", "surrogateescape").rstrip("\r")
        self._rest.clear()
        stamp = _TIMESTAMP.match(text)
        if stamp is None:
            self._give(text, self._plain, self._of_kernel)
        else:
            self._give(text[stamp.end() :], self._of_kernel, self._plain)

    @staticmethod
    def _give(text: str, own: _PrefixedStream, other: _PrefixedStream) -> None:
        if not own.take(text):
            other.stream.note(text)


class _PrefixedStream:
    """A stream of lines that may all begin with something that is cut off.

    KUnit's tool cuts every line at the column where the first version line begins. Here a line is
    cut where it begins alike, but for digits and blanks: a panic, say, may come without a prefix.
    """

    def __init__(self) -> None:
        self.stream = TapStream()
        self._shape = ""

    def take(self, text: str) -> bool:
        """Take a line; False where it is no part of a stream: none has begun."""
        if not self.stream.has_begun:
            version = find_version(text)
            if version is None:
                return False
            self._shape = _shape(text[: version[0]])
        width = len(self._shape)
        self.stream.take(text[width:] if _shape(text[:width]) == self._shape else text)
        return True


def _shape(prefix: str) -> str:
    return _VARYING.sub("0", prefix)
