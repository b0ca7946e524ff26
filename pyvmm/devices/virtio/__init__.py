# SPDX-License-Identifier: MIT
"""virtio: the status machine, its queues, its register maps, and kinds of device."""
