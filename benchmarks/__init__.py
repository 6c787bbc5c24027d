"""Measured work: what every op and model costs, side by side.

Run from the root of the checkout; `benchmarks/README.md` names the commands.
"""
