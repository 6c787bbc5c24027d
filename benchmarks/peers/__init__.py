"""Times our ops against other implementations, with the same inputs.

`python -m benchmarks.peers`; `benchmarks/README.md` explains it.
"""
