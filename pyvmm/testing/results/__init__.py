# SPDX-License-Identifier: MIT
"""Results that guests print, in KTAP and TAP, and what is judged by them."""
