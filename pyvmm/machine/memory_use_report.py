# SPDX-License-Identifier: MIT
"""Report of the memory that a guest takes over time: as text, and as a page with a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pyvmm.machine.memory_use import MemorySample, Recording

_WIDTH, _HEIGHT = 720, 240
"""Picture of samples, in pixels."""
_AFTER = 1.05
"""Width of the picture as a multiple of the time up to the last sample."""
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
<p><b style="background:#d9822b"></b> private copies on top of
<b style="background:#2a78b5"></b> shared ones; in front of both,
<b style="background:#b01c2e"></b> pages that are resident twice</p>
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
        yield " ".join((f"{'seconds':>8}", *(f"{head:>11}" for head in heads)))
        for one in record.samples:
            mapped = sum(size * count for size, count in one.tables.mapped.items())
            figures = (one.shared, one.private, one.twice, one.holes)
            told = (
                *map(_kib, figures),
                _kib(mapped) if one.tables.mapped else "-",
                "-" if one.tables.process is None else _kib(one.tables.process),
            )
            yield " ".join((f"{one.seconds:8.2f}", *(f"{each:>11}" for each in told)))
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
    end = max(samples[-1].seconds * _AFTER, 0.001)
    top = max(1, *(one.shared + one.private for one in samples))

    def edge(sums: Sequence[int]) -> list[tuple[float, float]]:
        """Steps: a figure is drawn up to the next sample, since nothing is known in between."""
        found: list[tuple[float, float]] = []
        for index, (one, value) in enumerate(zip(samples, sums, strict=True)):
            y = _HEIGHT * (1 - value / top)
            until = samples[index + 1].seconds if index + 1 < len(samples) else end
            found += [(one.seconds / end * _WIDTH, y), (until / end * _WIDTH, y)]
        return found

    def area(name: str, below: Sequence[int], above: Sequence[int]) -> str:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*edge(above), *reversed(edge(below))])
        return f'<polygon class="{name}" points="{points}"/>'

    nothing = [0] * len(samples)
    shared = [one.shared for one in samples]
    both = [one.shared + one.private for one in samples]
    parts = (
        area("shared", nothing, shared),
        area("private", shared, both),
        area("twice", nothing, [one.twice for one in samples]),
    )
    told = f"memory over {samples[-1].seconds:.2f} s, at most {_kib(top)}"
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    svg = f'<svg {box} role="img" aria-label="{told}">{"".join(parts)}</svg>'
    scale = f"From left to right {end:.2f} s, from bottom to top {_kib(top)}."
    return f"{svg}\n<p>{scale}</p>"


def _kib(size: int) -> str:
    return f"{size >> 10} KiB"
