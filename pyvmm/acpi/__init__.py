# SPDX-License-Identifier: MIT
"""ACPI tables as bytes, made from a description of the machine (docs/decisions/0019)."""
