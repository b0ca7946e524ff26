# SPDX-License-Identifier: MIT
"""A pytest session's side: marks, options, reports, and tests that run in the lab."""
