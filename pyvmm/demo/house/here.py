# SPDX-License-Identifier: MIT
"""A reader's stages in this process, without a house: for what needs no process of its own."""

from __future__ import annotations

import trio

from pyvmm.demo.house.houses import told_of
from pyvmm.demo.house.lines import OpenOn
from pyvmm.demo.house.serving import Serving
from pyvmm.demo.telling.orders import OpenStage, Order, Told
from pyvmm.demo.telling.outcomes import StageHost


class ReadingHere:
    """One reader's stages in this process, on one host: without a house."""

    def __init__(self, nursery: trio.Nursery, host: StageHost) -> None:
        self._serving = Serving(nursery)
        self._host = host

    async def carry_out(self, order: Order) -> Told:
        """See `Reading`."""
        if isinstance(order, OpenStage):
            return told_of(await self._serving.answer(OpenOn(self._host, order)))
        return told_of(await self._serving.answer(order))
