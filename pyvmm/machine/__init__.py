# SPDX-License-Identifier: MIT
"""The machine: where trio lives. One nursery per machine, one thread per vCPU."""
