# SPDX-License-Identifier: MIT
"""The demo: private guest memory set up step by step on the real thing, to be watched and broken.

A chapter is data, a stage carries its acts out, a player is one reader's place in it, and writers
show that: terminal, page, hand-out.
"""
