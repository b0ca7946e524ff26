# SPDX-License-Identifier: MIT
"""Road to the page through a management client: dump-guest-memory over QMP, and the file it wrote.

The server is the one that a machine has for such clients, on a socket in a folder of its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Seen
from pyvmm.errors import SystemCallError
from pyvmm.hosts.call_record import number_field
from pyvmm.qmp.asyncio_thread import open_asyncio
from pyvmm.qmp.server import open_listener, serving


async def by_qmp_dump(target: Target, gpa: int) -> Seen:
    """Have all of memory written to a file, and look for the page there."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-demo-") as folder:
        core = Path(folder) / "core"
        refusal = await _dumped(target, Path(folder) / "qmp", core)
        if refusal:
            return closed(Road.QMP_DUMP, gpa, refusal)
        found = _contents(target, core, gpa, target.size(gpa))
        size = core.stat().st_size
    said = f"the file has {size} bytes"
    if found is None:
        return closed(Road.QMP_DUMP, gpa, f"{said}, and the page is not in it")
    if not found:
        note = f"{said}: it names the page's address, and has no contents for it"
        return closed(Road.QMP_DUMP, gpa, note)
    return target.got(Road.QMP_DUMP, gpa, found, said)


async def _dumped(target: Target, path: Path, core: Path) -> str:
    """Ask for the dump as a client; why it was refused, "" where it was not."""
    from qemu.qmp import ExecuteError, QMPClient, QMPError

    asked = {"paging": False, "protocol": f"file:{core}"}
    with open_listener(path) as listener:
        async with serving(target.inside.machine, listener), open_asyncio() as library:

            async def ask() -> str:
                client = QMPClient("pyvmm-demo-attacker")
                client.logger.disabled = True
                await client.connect(str(path))
                try:
                    await client.execute("dump-guest-memory", asked)
                except ExecuteError as error:
                    return f"QMP: {error}"
                finally:
                    await client.disconnect()
                return ""

            try:
                return await library.run(ask)
            except (QMPError, EOFError, OSError) as error:
                cause = f"the QMP client failed: {type(error).__name__}: {error}"
                raise SystemCallError("dump a guest's memory over QMP", 5, cause) from error


def _contents(target: Target, core: Path, gpa: int, size: int) -> bytes | None:
    """Bytes of an ELF core from a GPA on: b"" where it has none for it, None without the GPA."""
    from elftools.elf.elffile import ELFFile

    with core.open("rb") as file:
        fd = file.fileno()
        target.told("openat", str(core), result=fd)
        for one in ELFFile(file).iter_segments("PT_LOAD"):
            at = gpa - int(one["p_paddr"])
            if 0 <= at < int(one["p_memsz"]):
                end = min(at + size, int(one["p_filesz"]))
                if end <= at:
                    return b""
                offset = int(one["p_offset"]) + at
                data = os.pread(fd, end - at, offset)
                asked = number_field("length", end - at), number_field("offset", offset)
                target.told("pread", f"dump fd {fd}", *asked, result=len(data))
                return data
    return None
