"""Tests of the guests."""
