# SPDX-License-Identifier: MIT
"""The command line: one file per command. Nothing else parses, prints or picks exit codes."""
