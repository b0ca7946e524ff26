# SPDX-License-Identifier: MIT
"""Comparing the machines that Linux finds under pyvmm and under QEMU.

Pure: `facts` takes apart what the guest said, `known` has the differences with a reason, `verdict`
compares, `report`, `text` and `json_form` tell. With effects: `runs` boots, `conduct` orders.
"""
