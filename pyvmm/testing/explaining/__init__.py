# SPDX-License-Identifier: MIT
"""Explanations of failed tests, and their artifacts."""
