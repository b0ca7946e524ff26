# SPDX-License-Identifier: MIT
"""Boot tests: machines as ordinary as fixtures (docs/decisions/0015-boot-tests.md)."""
