# SPDX-License-Identifier: MIT
"""The networks of a machine's cards: their wires, made and taken down with the machine."""
