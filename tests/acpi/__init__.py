# SPDX-License-Identifier: MIT
"""Tests of the room `acpi`."""
