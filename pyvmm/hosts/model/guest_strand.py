# SPDX-License-Identifier: MIT
"""The strand of a vCPU's guest code: it stands still whenever nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.hosts import exits
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model.strand import Strand


class GuestStrand:
    """A strand that is stopped where an exception breaks off the wait for it.

    That is one of a signal's handler, as KeyboardInterrupt. It goes on once the guest has stopped;
    an exit that comes of that is the result of the next `resume`. KVM_RUN, too, ends with a signal.
    """

    def __init__(
        self,
        body: Callable[[], Exit | None],
        name: str,
        kick: Callable[[], None],
        take_kick: Callable[[], bool],
    ) -> None:
        """`kick` makes `body` end soon; `take_kick` takes that back where it has ended anyway."""
        self._strand = Strand(body, name)
        self._kick = kick
        self._take_kick = take_kick
        self._left: Exit | None = None

    def resume(self) -> Exit | None:
        """Let it run until it hands over or ends (`Strand.resume`), or give what was left."""
        if self.settle():
            left, self._left = self._left, None
            return left
        try:
            return self._strand.resume()
        except BaseException:
            self.settle()
            raise

    def settle(self) -> bool:
        """Stop guest code that nobody waits for; True: it has left an exit for `resume`."""
        if self._strand.is_out:
            self._kick()
            left = self._strand.resume()
            self._take_kick()
            self._left = None if isinstance(left, exits.Interrupted) else left
        return self._left is not None

    def forget(self) -> None:
        """`settle`, and drop what is left."""
        self.settle()
        self._left = None

    def hand_over(self, result: Exit) -> None:
        """On the strand: as `Strand.hand_over`."""
        self._strand.hand_over(result)

    def close(self) -> None:
        """End the thread; a second call does nothing."""
        self._strand.close()
