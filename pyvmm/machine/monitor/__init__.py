# SPDX-License-Identifier: MIT
"""The human monitor: lines in QEMU's words about a guest, for the terminal and for QMP."""
