# SPDX-License-Identifier: MIT
"""Drivers: a guest under pyvmm or QEMU, as boot tests drive it; which of them are here."""
