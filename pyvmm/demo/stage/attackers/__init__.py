# SPDX-License-Identifier: MIT
"""Roads by which somebody on the host tries to get at a page of a guest's memory."""
