# SPDX-License-Identifier: MIT
"""The same guest under pyvmm and under QEMU, side by side: does it behave alike, what does it cost.

Pure are `subjects`, `observations`, `plan`, `statistics`, `ram`, `inventory`, `differences`,
`machines`, `qemu_boot`, `loader_values`, `reasons`, `verdict`, `report`, `json_report`,
`html_report` and `pictures`. `conduct` does what the plan says, with
`pyvmm_runs` and `qemu_runs`, which look at a guest, and `timed_runs`, which measures processes.
"""
