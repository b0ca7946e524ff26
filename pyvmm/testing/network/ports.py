# SPDX-License-Identifier: MIT
"""A port of a test's network: the cable to one guest's card, and what becomes of frames on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pyvmm.errors import UsageError
from pyvmm.testing.failures import is_told
from pyvmm.testing.network.channel import close_all
from pyvmm.testing.network.messages import Impair, Request, SetLink

__tracebackhide__ = is_told

_ETHERNET = 1500
_LONGEST_DELAY = 60.0


class Port:
    """A port of a switch, for `boot(..., net=port)`; made by `Network.port`."""

    def __init__(
        self,
        ask: Callable[[Request], object],
        name: str,
        taps: Sequence[int],
        *,
        mac: bytes,
        address: str,
        mtu: int,
    ) -> None:
        """Take over the descriptors `taps`, one for each queue; `ask` has the network's process."""
        self.name = name
        """Name of its tap, as captures and messages have it."""
        self.mac = mac
        """Address of the guest's card: 6 bytes, which no other port of the network has."""
        self.address = address
        """Address that is set aside for the guest, with the length of the network's prefix."""
        self.mtu = mtu
        """Bytes of the longest packet; the guest's card says it where it is not 1500."""
        self._ask = ask
        self._taps = tuple(taps)
        self._is_taken = False

    def __repr__(self) -> str:
        return f"<{self.name} {self.mac.hex(':')} {self.address}>"

    @property
    def told_mtu(self) -> int | None:
        """The MTU, where it is not Ethernet's own, which needs no telling."""
        return None if self.mtu == _ETHERNET else self.mtu

    @property
    def ip(self) -> str:
        """The address alone."""
        return self.address.partition("/")[0]

    def down(self) -> None:
        """Switch the port off: nothing goes through it. The guest's card still sees its cable."""
        self._ask(SetLink(self.name, False))

    def up(self) -> None:
        """Switch it on again."""
        self._ask(SetLink(self.name, True))

    def impair(
        self,
        *,
        loss: float = 0,
        duplicate: float = 0,
        corrupt: float = 0,
        delay: float = 0,
        jitter: float = 0,
    ) -> None:
        """Have netem do this to all frames that go to the guest from now on; nothing: end it.

        `loss`, `duplicate` and `corrupt` are percent of the frames, `delay` and `jitter` seconds.
        Raises `CannotError` where the kernel has no netem.
        """
        attempt = f"impair {self.name}"
        for name, share in (("loss", loss), ("duplicate", duplicate), ("corrupt", corrupt)):
            if not (isinstance(share, (int, float)) and 0 <= share <= 100):
                raise UsageError(attempt, f"{name}={share!r} is no percentage, from 0 to 100")
        for name, seconds in (("delay", delay), ("jitter", jitter)):
            if not (isinstance(seconds, (int, float)) and 0 <= seconds <= _LONGEST_DELAY):
                raise UsageError(attempt, f"{name}={seconds!r} is not within 0 and 60 seconds")
        if jitter and not delay:
            raise UsageError(attempt, "there is no jitter without a delay")
        self._ask(
            Impair(
                self.name, float(loss), float(duplicate), float(corrupt),
                round(delay * 1e6), round(jitter * 1e6),
            )
        )  # fmt: skip

    @contextmanager
    def taken(self) -> Iterator[tuple[int, ...]]:
        """Be a guest's for the block, which gets copies of the descriptors that last as long.

        Raises `UsageError` where it is another guest's, or its network has gone.
        """
        attempt = f"boot with {self.name}"
        if self._is_taken:
            raise UsageError(attempt, "another guest has it", "give each its own network.port()")
        if not self._taps:
            raise UsageError(attempt, "its network has gone", "it ends with its test")
        self._is_taken = True
        with ExitStack() as stack:
            stack.callback(setattr, self, "_is_taken", False)
            copies = tuple(map(os.dup, self._taps))
            stack.callback(close_all, copies)
            _drain(copies)
            yield copies

    def close(self) -> None:
        """Close its tap, once; it goes with the last descriptor, which may be a guest's."""
        taps, self._taps = self._taps, ()
        close_all(taps)


def _drain(taps: Sequence[int]) -> None:
    """Drop frames that came while the port had no guest."""
    for tap in taps:
        os.set_blocking(tap, False)
        try:
            while os.read(tap, 1 << 17):
                pass
        except BlockingIOError:
            pass
