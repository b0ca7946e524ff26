# SPDX-License-Identifier: MIT
"""A stub of GDB's remote protocol: a guest under a debugger (docs/gdb.md)."""
