# SPDX-License-Identifier: MIT
"""The attacker's view, and the guest's console, as HTML: text of a guest is never markup."""

from __future__ import annotations

from html import escape

from pyvmm.demo.page.words import said, table
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Outcome, Seen, name_of
from pyvmm.visible import visible

CONSOLE_SHOWN = 16 << 10
"""The most bytes of a console that a moment shows: its end."""
_ROADS = {
    Road.API: "the monitor's own reading of guest memory",
    Road.MAPPING: "the host's mapping behind the slot",
    Road.PROC_MEM: "/proc/self/mem",
    Road.VM_READV: "process_vm_readv",
    Road.FILE_READ: "pread of the guest_memfd",
    Road.FILE_MMAP: "mmap of the guest_memfd",
    Road.QMP_DUMP: "dump-guest-memory over QMP",
    Road.CORE: "a core file of the monitor",
    Road.OTHER_VM: "a slot of another VM",
    Road.SEARCH: "a search of everything that the process has mapped",
    Road.REGISTERS: "the vCPU's registers",
    Road.EXITS: "the record of the guest's exits",
}


def attacker_html(outcome: Outcome) -> str:
    """Everything that somebody on the host gets, road by road; "" where none was taken."""
    if not outcome.seen:
        return ""
    rows = [
        (said(_ROADS[one.road]), f"<code>{one.gpa:#x}</code>", _got(one), said(one.note) or "-")
        for one in outcome.seen
    ]
    columns = ("road", "page", "what it gives", "because")
    rows_html = table(columns, rows, "What somebody on the host reads")
    return f'<h3>The attacker\'s view</h3><div class="wide">{rows_html}</div>'


def _got(seen: Seen) -> str:
    kind = "bad" if seen.content is Content.SECRET else "good"
    words = f'<b class="{kind}">{said(seen.words)}</b>'
    if seen.errno:
        words += f" ({name_of(seen.errno)})"
    if seen.data:
        letters = seen.data.decode("ascii", "replace")
        letters = "".join(one if one.isascii() and one.isprintable() else "." for one in letters)
        words += f": <code>{seen.data.hex(' ')}</code> <code>{escape(letters)}</code>"
    return words


def console_html(outcome: Outcome) -> str:
    """The guest's writing to its console meanwhile; "" for none."""
    if not outcome.console:
        return ""
    shown = outcome.console[-CONSOLE_SHOWN:]
    cut = len(outcome.console) - len(shown)
    left_out = f'<p class="faint">{cut} bytes before these are left out.</p>' if cut else ""
    text = shown.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    words = escape(visible(text, keep="\n\t"))
    return f'<h3>The guest\'s console</h3>{left_out}<pre tabindex="0">{words}</pre>'
