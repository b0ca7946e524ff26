# SPDX-License-Identifier: MIT
"""Guest memory as pure values: the address map, slots, and what backs them."""
