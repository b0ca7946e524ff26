# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing, on demand: ``python -m tests.fuzz TARGET`` (CONTRIBUTING.md)."""
