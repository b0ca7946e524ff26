# SPDX-License-Identifier: MIT
"""Tests of the host's side of guests' networks."""
