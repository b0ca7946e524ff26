# SPDX-License-Identifier: MIT
"""Stages: real VMs, files and guests that acts are carried out on."""
