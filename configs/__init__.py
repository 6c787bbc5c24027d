"""Runs: one file each, whose docstring says what to expect."""
