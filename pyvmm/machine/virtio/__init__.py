# SPDX-License-Identifier: MIT
"""Servers of virtio queues: they take chains, move data and raise interrupts."""
