# SPDX-License-Identifier: MIT
"""The demo as a page on loopback: admission, readers, a lecture, and one WebSocket for each tab."""
