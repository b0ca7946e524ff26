# SPDX-License-Identifier: MIT
"""What pyvmm costs, as ratios against C programs and QEMU measured in the same run.

``python -m benchmarks`` or ``make bench``. README.md says what each benchmark compares.
"""
