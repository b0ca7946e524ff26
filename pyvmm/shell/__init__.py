# SPDX-License-Identifier: MIT
"""The shell: a host, a VM, its memory and a vCPU at hand, at a prompt or in a script.

`pyvmm.shell.bench.open_bench` is for programs and notebooks; importing this package loads nothing.
"""
