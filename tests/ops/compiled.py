"""Ops under `jax.jit`: op by op they take many times as long."""

import functools
import inspect

import jax

from jaxmodels import ops

OPTIONS = {"method", "chunk_size", "reverse", "block_diagonal", "normalize"}


@functools.cache
def compiled(name):
  """The op of that name, its options static."""
  op = getattr(ops, name)
  options = OPTIONS & inspect.signature(op).parameters.keys()
  return jax.jit(op, static_argnames=tuple(options))
