"""Measures time, memory and flops of every op and model.

Run from the root of the checkout; `benchmarks/README.md` lists the commands.
"""
