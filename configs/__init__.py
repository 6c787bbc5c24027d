"""Configs of runs, one per file; its docstring gives the expected result."""
