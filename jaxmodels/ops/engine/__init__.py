"""The engine: how four small functions of a family become every form of an op.

`recurrence` has the forms, `method` chooses one, `make_op` makes an op of a
family. The other files hold what they share: chunks, masks of segments, decays,
triangular systems, gradients, sequence parallelism, guards.
"""
