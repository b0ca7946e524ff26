# SPDX-License-Identifier: MIT
"""Measuring a conversion: what it takes to make a page private, 4 KiB or 2 MiB at a time.

    python examples/measure_conversion.py [kvm|model]

The times are those of one call from Python, on an idle VM; `python -m benchmarks conversions`
compares with C and under load. Needs private memory of either kind: the lab, or the model.
"""

import statistics
import sys
import time

from pyvmm.experiment import short_errors
from pyvmm.shell.bench import open_bench

MIB = 1 << 20
ROUNDS = 50


def microseconds(size):
    """Times of conversions of `size` bytes, there and back."""
    found = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        memory.convert(2 * MIB, size, private=number % 2 == 0)
        found.append((time.perf_counter() - began) * 1e6)
    return found


host = (*sys.argv[1:], "auto")[0]
with short_errors(), open_bench(host, size=4 * MIB, private="auto") as bench:
    memory = bench.memory
    memory.write(2 * MIB, b"kept?")
    kind = f"on {bench.host.value}, {'in place' if memory.in_place else 'to another page'}"
    for size in (4096, 2 * MIB):
        times = microseconds(size)
        middle, worst = statistics.median(times), max(times)
        print(f"{size >> 10:5} KiB {kind}: median {middle:.1f} us, worst {worst:.1f} us")
    print("the shared page still has", memory.read(2 * MIB, 5))
