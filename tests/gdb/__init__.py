# SPDX-License-Identifier: MIT
"""Tests of the stub of GDB's remote protocol."""
