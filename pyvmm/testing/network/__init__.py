# SPDX-License-Identifier: MIT
"""Networks of boot tests: a switch in a namespace of its own, which ends with its test."""
