# SPDX-License-Identifier: MIT
"""System calls and exits of a moment as HTML: each with its structure, its bytes and its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pyvmm.demo.page.call_words import field_words, flag_words, request_words
from pyvmm.demo.page.words import said, table
from pyvmm.demo.telling.outcomes import Outcome, name_of
from pyvmm.hosts.call_record import Field, Made, SystemCall

BRIEF = 8
"""The most calls that are all spelled out at once."""
SHOWN_BYTES = 16
"""The most bytes of a field that are written out."""


def calls_html(outcome: Outcome) -> str:
    """All that was asked of the kernel, and exits of the guest; in order, as far as it was kept.

    Of more than `BRIEF` those that were refused stand out, the others are counted first.
    """
    calls = outcome.calls
    what = "System calls and exits" if outcome.exits else "System calls"
    parts = [f"<h3>{what}</h3>"]
    if not calls:
        parts.append("<p>No system call was needed.</p>")
    elif all(one.made is Made.MODEL for one in calls):
        parts.append('<p class="faint">The model answers; KVM would have been given the same.</p>')
    many = len(calls) + len(outcome.exits)
    if many > BRIEF:
        counted = Counter(map(_name, calls))
        words = [f"{name} x{times}" for name, times in counted.items()]
        if outcome.exits:
            words.append(f"exits of the guest x{len(outcome.exits)}")
        parts.append(f"<p>{said(', '.join(words))}.</p>")
        parts.append(_listed([one for one in calls if one.errno]))
        parts.append(f"<details><summary>All {many} in order</summary>")
        parts.append(f"{_listed(outcome.in_order)}</details>")
    else:
        parts.append(_listed(outcome.in_order))
    for left, count in outcome.left_out:
        parts.append(f'<p class="faint">and {count} more: {said(left)}</p>')
    return "".join(parts)


def _name(call: SystemCall) -> str:
    """Name of what was asked for, without the flags of a call that says it by its own name."""
    if call.name == "ioctl":
        return call.request
    is_request = call.request.startswith(("MADV_", "FALLOC_"))
    return f"{call.name} {call.request}" if is_request else call.name


def _listed(made: Sequence[SystemCall | str]) -> str:
    """Calls and exits in order; a request and a structure are explained where they stand first."""
    items = []
    known: set[str] = set()
    for one in made:
        if isinstance(one, str):
            items.append(_exit(one))
            continue
        words = request_words(one.name, one.request)
        is_known = one.structure in known
        items.append(_call(one, "" if words in known else words, explains=not is_known))
        known |= {words, one.structure}
    return f'<ol class="calls">{"".join(items)}</ol>' if items else ""


def _exit(words: str) -> str:
    """The words of an exit, with the vCPU at their start."""
    return f'<li class="exit"><p class="line"><code>exit of {said(words)}</code></p></li>'


def _call(call: SystemCall, words: str, *, explains: bool) -> str:
    kind = "call refused" if call.errno else "call"
    parts = [
        f'<li class="{kind}"><p class="line"><code>{_line(call)}</code></p>',
        f'<p class="faint">{said(words)} [{said(call.section)}]</p>',
    ]
    if call.structure:
        rows = list(_rows(call.structure if explains else "", call.given))
        parts.append(_structure(call.structure, rows))
    if call.returned:
        rows = list(_rows("", call.returned))
        parts.append(_structure("written back by the kernel", rows))
    return "".join((*parts, "</li>"))


def _line(call: SystemCall) -> str:
    words = [call.target]
    if call.request:
        words.append(call.request)
    if call.structure:
        words.append(f"&{call.structure}")
    else:
        words += [f"{one.name} {value_words(one)}" for one in call.given]
    answer = f"-1 {name_of(call.errno)}" if call.errno else result_words(call)
    kind = "bad" if call.errno else "good"
    return f'{said(call.name)}({said(", ".join(words))}) = <b class="{kind}">{said(answer)}</b>'


def result_words(call: SystemCall) -> str:
    """The result of a call that worked, with what it is."""
    if call.name == "mmap":
        return f"{call.result:#x}"
    makes = call.request.startswith("KVM_CREATE_V") or call.request == "KVM_CREATE_GUEST_MEMFD"
    return f"{call.result} (a new descriptor)" if makes else str(call.result)


def value_words(field: Field) -> str:
    """A field's value, with its meaning in brackets."""
    if field.value is None:
        shown = field.raw[:SHOWN_BYTES].hex(" ")
        return shown + (" ..." if len(field.raw) > SHOWN_BYTES else "")
    words = f"{field.value:#x}" if abs(field.value) >= 10 else str(field.value)
    return f"{words} ({field.meaning})" if field.meaning else words


def _structure(name: str, rows: Sequence[Sequence[str]]) -> str:
    """A structure as a table; one without meanings has no column for them."""
    columns: Sequence[str] = ("field", "value", "bytes, from offset", "meaning")
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return f'<div class="wide">{table(columns, rows, name, "structure")}</div>'


def _rows(structure: str, fields: Sequence[Field]) -> Iterator[tuple[str, ...]]:
    """Each field, explained as one of `structure`; zeroes behind the last are one row."""
    shown = list(fields)
    unused: list[Field] = []
    while shown and shown[-1].name.startswith(("pad", "reserved")) and not any(shown[-1].raw):
        unused.insert(0, shown.pop())
    for one in shown:
        words = " ".join(filter(None, (field_words(structure, one.name), flag_words(one.meaning))))
        yield (
            said(one.name),
            said(value_words(one)),
            _bytes(one),
            said(words),
        )
    if unused:
        size = sum(len(one.raw) for one in unused)
        names = ", ".join(one.name for one in unused)
        yield (
            said(names),
            "0",
            f"{unused[0].offset:#04x}: {size} x 00",
            "Unused; has to be zero.",
        )


def _bytes(field: Field) -> str:
    """The bytes as the kernel got them, the lowest first, behind the offset of the first one."""
    shown = field.raw[:SHOWN_BYTES].hex(" ") + (" ..." if len(field.raw) > SHOWN_BYTES else "")
    return said(f"{field.offset:#04x}: {shown}")
