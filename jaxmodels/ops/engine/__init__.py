"""The engine: makes every form of an op from four small functions of a family.

`recurrence` has the forms, `method` chooses one, and `make_op` makes an op from
a family. The other files have shared parts: chunks, masks of segments, decays,
triangular systems, gradients, sequence parallelism, guards.
"""
