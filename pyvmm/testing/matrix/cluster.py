# SPDX-License-Identifier: MIT
"""A Dask cluster as a matrix uses it: reached in bounded time, its workers looked at one by one.

Dask's own comparison of versions warns at most, and says nothing of pyvmm; so it is made here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import platform
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, NoInputError, UsageError
from pyvmm.testing.matrix.cluster_worker import Facts, facts_of
from pyvmm.visible import visible

if TYPE_CHECKING:
    from distributed import Client

CONNECT = 10.0
"""Seconds in which a scheduler has to answer."""
WORKERS = 30.0
"""Seconds in which there has to be a worker, at the beginning."""
_ANSWER = 30.0
"""Seconds in which workers have to answer."""
_TO_CLOSE = 5.0
_NAMED = 3
"""Workers that a message names."""


def scheduler_address(text: str) -> str:
    """Address of the scheduler that `text` names: by an address or by its file.

    ``tcp://host:8786``, ``host:8786``, or what Dask's commands call ``--scheduler-file``.
    Raises `NoInputError` and `UsageError`.
    """
    scheme, colons, rest = text.partition("://")
    if not colons:
        path = Path(text)
        if path.is_file():
            return _address_in(path)
        scheme, rest = "tcp", text
    host, _, port = rest.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16
    if host and scheme and is_port and "/" not in rest:
        return f"{scheme}://{rest}"
    if colons:
        raise UsageError(f"find the cluster {text}", "that is no address", _EXAMPLE)
    raise NoInputError(
        f"find the cluster {text}", "that is no address, and there is no such file", _EXAMPLE
    )


_EXAMPLE = "give what dask scheduler prints (tcp://host:8786), or the scheduler file"


def _address_in(path: Path) -> str:
    try:
        address = json.loads(path.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str) or "://" not in address:
        raise UsageError(
            f"find the cluster by {path}",
            "the file names no scheduler",
            "give one that dask scheduler --scheduler-file has written",
        )
    return address


class Cluster:
    """A cluster that is connected, and its workers that can boot: `fit`, by address."""

    def __init__(self, client: Client, place: str) -> None:
        self.client = client
        self.place = place
        self.fit: dict[str, Facts] = {}
        self.unfit: dict[str, str] = {}
        """Causes, by address."""
        self.silent: dict[str, str] = {}
        """Causes, by address, why nothing is known of a worker yet: it is asked again."""
        self.version = version("pyvmm")

    @property
    def has_resource(self) -> bool:
        """True where a worker declares the resource: then no others get boots."""
        return any(one.vms for one in self.fit.values())

    @property
    def able(self) -> dict[str, int]:
        """Workers that get boots, with how many at a time."""
        if self.has_resource:
            return {address: one.vms for address, one in self.fit.items() if one.vms}
        return {address: one.threads for address, one in self.fit.items()}

    @property
    def slots(self) -> int:
        """Boots that can run at a time."""
        return sum(self.able.values())

    @property
    def everyone(self) -> set[str]:
        """All workers that there are, fit or not."""
        return self.fit.keys() | self.unfit.keys()

    @property
    def is_lost(self) -> bool:
        """True once the scheduler is gone."""
        return str(self.client.status) != "running"

    async def look(self) -> None:
        """See which workers there are now, and whether new ones are fit.

        Raises `TimeoutError` where they do not answer.
        """
        there = set(await asyncio.wait_for(self.client.nthreads(), _ANSWER))
        for gone in (self.fit.keys() | self.unfit.keys()) - there:
            self.fit.pop(gone, None)
            self.unfit.pop(gone, None)
        new = sorted(there - self.fit.keys() - self.unfit.keys())
        before, self.silent = self.silent, {}
        try:
            await self._look_at(new)
        except (asyncio.CancelledError, TimeoutError):
            # Who ends the waiting is still told of workers that have not answered.
            self.silent = {one: before.get(one, "nothing") for one in new} | self.silent
            raise

    async def _look_at(self, new: list[str]) -> None:
        if not new:
            return
        self.unfit |= await self._faults(new)
        new = [one for one in new if one not in self.unfit and one not in self.silent]
        for address, found in (await self._ask(new, facts_of)).items():
            if isinstance(found, Facts):
                self.fit[address] = found
            else:
                self._is_silent(address, found)

    def _is_silent(self, address: str, found: object) -> None:
        said = first_line(found) if isinstance(found, BaseException) else "with something else"
        self.silent[address] = said

    async def _faults(self, workers: list[str]) -> dict[str, str]:
        """Versions that are not ours, by the address of the worker."""
        faults: dict[str, list[str]] = {}
        for name, function, arguments in _ASKED:
            own = function(*arguments)
            for address, found in (await self._ask(workers, function, *arguments)).items():
                if isinstance(found, PackageNotFoundError):
                    faults.setdefault(address, []).append(f"no {name}")
                elif not isinstance(found, str):
                    # A connection that was lost, say: no answer is no other version.
                    self._is_silent(address, found)
                elif not _agree(name, found, own):
                    faults.setdefault(address, []).append(f"{name} {found}, not {own}")
        return {address: " and ".join(found) for address, found in faults.items()}

    async def _ask(
        self, workers: list[str], function: Callable[..., object], *arguments: object
    ) -> dict[str, object]:
        """Call a function that the workers have; one that raises has its exception as result."""
        if not workers:
            return {}
        answers = self.client.run(function, *arguments, workers=workers, on_error="return")
        found: dict[str, object] = await asyncio.wait_for(answers, _ANSWER)
        return found

    def refuse_unfit(self) -> None:
        """Raise `HostLacksError` where there is a worker that is not fit."""
        if not self.unfit:
            return
        named = [f"{one} has {fault}" for one, fault in [*self.unfit.items()][:_NAMED]]
        more = len(self.unfit) - len(named)
        raise HostLacksError(
            f"boot on the cluster {self.place}",
            "; ".join(named) + (f"; and {more} more" if more else ""),
            f"install pyvmm {self.version} there, with the same Python and distributed, and start "
            "these workers again",
        )


_ASKED: tuple[tuple[str, Callable[..., str], tuple[str, ...]], ...] = (
    ("pyvmm", version, ("pyvmm",)),
    ("Python", platform.python_version, ()),
    ("distributed", version, ("distributed",)),
)


def _agree(name: str, found: str, own: str) -> bool:
    if name == "Python":  # The third number is not about what is pickled.
        return found.split(".")[:2] == own.split(".")[:2]
    return found == own


@asynccontextmanager
async def connected(place: str, seconds: float = CONNECT) -> AsyncIterator[Cluster]:
    """A cluster within a block. Raises `HostLacksError` where it cannot be used."""
    try:
        from distributed import Client
    except ImportError as error:
        raise HostLacksError(
            f"use the cluster {place}",
            f"Dask distributed is not installed ({error})",
            "pip install 'pyvmm[cluster]'",
        ) from None
    with _quiet():
        client: Client | None = None
        try:
            client = Client(place, asynchronous=True, timeout=seconds, set_as_default=False)
            await asyncio.wait_for(_started(client), seconds)
        except Exception as error:  # noqa: BLE001 - who answers there may be anything, with anything
            await _closed(client)
            said = f"what is there does not answer as a Dask scheduler does ({first_line(error)})"
            if isinstance(error, (TimeoutError, OSError)):
                said = f"no Dask scheduler answered within {seconds:g} s"
            raise HostLacksError(
                f"reach the cluster {place}",
                said,
                "see that dask scheduler runs there, and that this machine may connect to it",
            ) from None
        try:
            yield Cluster(client, place)
        finally:
            await _closed(client)


async def _started(client: Client) -> None:
    await client


async def _closed(client: Client | None) -> None:
    if client is not None:
        with suppress(Exception):
            await asyncio.wait_for(client.close(), _TO_CLOSE)


async def with_workers(cluster: Cluster, seconds: float = WORKERS) -> None:
    """Wait until there are workers, all of them fit. Raises `HostLacksError` otherwise."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                await cluster.look()
                cluster.refuse_unfit()
                if cluster.slots:
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        cause = f"it has had no workers for {seconds:g} s"
        for address, said in cluster.silent.items():
            cause = f"{address} has not answered for {seconds:g} s ({visible(said)})"
        raise HostLacksError(
            f"boot on the cluster {cluster.place}",
            cause,
            f"start some: dask worker {cluster.place}",
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log and warnings to itself: what matters of them is an error here."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        logger.setLevel(level)
