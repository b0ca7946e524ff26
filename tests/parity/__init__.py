# SPDX-License-Identifier: MIT
"""The cases of the kernel's own guest_memfd tests, shown through pyvmm (table: docs/parity.md)."""
