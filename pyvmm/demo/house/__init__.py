# SPDX-License-Identifier: MIT
"""Stages in processes of their own: here or in the lab, one for every reader."""
