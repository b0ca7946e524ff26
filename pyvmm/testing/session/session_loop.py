# SPDX-License-Identifier: MIT
"""The trio loop that all boots of a pytest session share, begun by the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyvmm.machine.loop_thread import LoopThread

_LOOP = pytest.StashKey["LoopThread"]()


def session_loop(config: pytest.Config) -> LoopThread:
    """The loop, which ends with the session's configuration."""
    loop = config.stash.get(_LOOP, None)
    if loop is None:
        from pyvmm.machine.loop_thread import LoopThread

        loop = LoopThread("boots")
        loop.__enter__()
        config.stash[_LOOP] = loop
        config.add_cleanup(loop.close)
    return loop
