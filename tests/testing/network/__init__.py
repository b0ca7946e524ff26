# SPDX-License-Identifier: MIT
"""Tests of boot tests' networks."""
