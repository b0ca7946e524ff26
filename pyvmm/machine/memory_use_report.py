# SPDX-License-Identifier: MIT
"""Report of the memory that a guest takes over time: as text, and as a page with a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pyvmm.machine.memory_use import MemorySample, Recording

_WIDTH, _HEIGHT = 720, 240
"""Picture of samples, in pixels."""
_DOCUMENT = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em }}
svg {{ width: 100%; border: 1px solid #888 }} pre {{ overflow-x: auto }}
.shared {{ fill: #2a78b5 }} .private {{ fill: #d9822b }} .twice {{ fill: #b01c2e }}
b {{ display: inline-block; width: 1em; height: 1em; vertical-align: -0.1em }}
</style></head><body><h1>{title}</h1>
<p>{summary}</p>
{picture}
<p><b style="background:#d9822b"></b> private copies, over
<b style="background:#2a78b5"></b> shared ones; <b style="background:#b01c2e"></b> of both:
pages that are resident twice</p>
<pre>{lines}</pre></body></html>
"""


def text_report(record: Recording) -> str:
    """A table over time, then what is resident twice, as lines."""
    return "".join(f"{line}\n" for line in _lines(record))


def html_report(record: Recording, title: str) -> str:
    """A page with the same, and a picture of it; it loads nothing."""
    return _DOCUMENT.format(
        title=escape(title),
        summary=escape(" ".join(_summary(record))),
        picture=_picture(record.samples),
        lines=escape(text_report(record)),
    )


def _lines(record: Recording) -> Iterator[str]:
    if record.lacking is None:
        heads = ("shared", "private", "twice", "holes", "mapped", "tables")
        yield " ".join((f"{'seconds':>8}", *(f"{head:>12}" for head in heads)))
        for one in record.samples:
            mapped = sum(size * count for size, count in one.tables.mapped.items())
            figures = (one.shared, one.private, one.twice, one.holes)
            told = (
                *map(_kib, figures),
                _kib(mapped) if one.tables.mapped else "-",
                "-" if one.tables.process is None else _kib(one.tables.process),
            )
            yield " ".join((f"{one.seconds:8.2f}", *(f"{each:>12}" for each in told)))
    yield from _summary(record)
    worst = _worst(record.samples)
    if worst is not None:
        for region in worst.regions:
            for range_ in region.named:
                size = _kib(range_.size)
                yield f"  {range_.start:#x}..{range_.end - 1:#x} of {region.what}, {size}"


def _summary(record: Recording) -> Iterator[str]:
    if record.lacking is not None:
        yield f"{record.lacking}."
        return
    peak = record.peak
    if peak is None:
        return
    most = _kib(peak.shared + peak.private)
    size = _kib(sum(one.range.size for one in peak.regions))
    when = f"{peak.seconds:.2f} s after the start"
    yield f"At most {most} of memory for {size} of the guest's, {when}."
    worst = _worst(record.samples)
    if worst is None:
        yield "No page was seen resident twice."
    else:
        least = "" if all(one.is_exact for one in worst.regions) else "at least "
        yield f"Resident twice: {least}{_kib(worst.twice)}, {worst.seconds:.2f} s after the start."


def _worst(samples: Sequence[MemorySample]) -> MemorySample | None:
    """Find the sample with the most that is resident twice; None where nothing ever is."""
    worst = max(samples, key=lambda one: one.twice, default=None)
    return worst if worst is not None and worst.twice else None


def _picture(samples: Sequence[MemorySample]) -> str:
    if not samples:
        return ""
    end = max(samples[-1].seconds, 0.001)
    top = max(1, *(one.shared + one.private for one in samples))

    def area(name: str, below: Sequence[int], above: Sequence[int]) -> str:
        xs = [one.seconds / end * _WIDTH for one in samples]
        ys = [[_HEIGHT * (1 - each / top) for each in edge] for edge in (above, below)]
        edges = [*zip(xs, ys[0], strict=True)]
        if len(samples) == 1:
            edges.append((float(_WIDTH), ys[0][0]))
        floor = [*zip(xs, ys[1], strict=True)]
        if len(samples) == 1:
            floor.append((float(_WIDTH), ys[1][0]))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*edges, *reversed(floor)])
        return f'<polygon class="{name}" points="{points}"/>'

    nothing = [0] * len(samples)
    shared = [one.shared for one in samples]
    both = [one.shared + one.private for one in samples]
    parts = (
        area("shared", nothing, shared),
        area("private", shared, both),
        area("twice", nothing, [one.twice for one in samples]),
    )
    told = f"memory over {end:.2f} s, at most {_kib(top)}"
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="{told}">{"".join(parts)}</svg>'


def _kib(size: int) -> str:
    return f"{size >> 10} KiB"
