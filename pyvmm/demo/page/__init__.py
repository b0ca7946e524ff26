# SPDX-License-Identifier: MIT
"""The demo as a page: HTML and SVG of a reader's view, and a whole run as one file."""
