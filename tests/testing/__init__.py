# SPDX-License-Identifier: MIT
"""Tests of the room `testing`."""
