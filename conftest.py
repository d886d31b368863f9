"""Loads the comparison that makes nbval strict and tolerant where it should be (tests/nbval_compare.py)."""

pytest_plugins = ["tests.nbval_compare"]
