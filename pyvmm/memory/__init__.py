# SPDX-License-Identifier: MIT
"""Guest memory as pure values: the physical layout, slots, and what backs them."""
