# SPDX-License-Identifier: MIT
"""Devices: models without input or output of their own, and the bus that finds them. Pure."""
