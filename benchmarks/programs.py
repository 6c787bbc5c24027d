"""Compiles the forward and gradient programs of an op, and counts costs."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Function = Callable[..., Any]


class Program(NamedTuple):
  """A compiled function and its arguments.

  Attributes:
    call: the compiled function.
    arguments: its arguments.
    text: the compiled program; equal texts are equal programs.
    compile_seconds: wall time of tracing, lowering and compiling.
    processor_seconds: the same, of all cores together.
    temp_bytes: memory besides arguments and results.
    flops: see `jaxmodels.analysis.flops`.
  """

  call: Callable[..., Any]
  arguments: tuple[Any, ...]
  text: str
  compile_seconds: float
  processor_seconds: float
  temp_bytes: int
  flops: float

  def run(self) -> Any:
    """Calls the program."""
    return self.call(*self.arguments)


class Lowered(NamedTuple):
  """A traced and lowered function, not compiled yet.

  Attributes:
    lowered: the lowered function of JAX.
    arguments: its arguments.
    seconds: wall time of tracing and lowering.
    processor_seconds: the same, of all cores together.
  """

  lowered: Any
  arguments: tuple[Any, ...]
  seconds: float
  processor_seconds: float


def lower(function: Function, *arguments: Any) -> Lowered:
  """Traces and lowers a function for arrays, or for shapes of arrays."""
  start, processor = time.perf_counter(), time.process_time()
  lowered = jax.jit(function).lower(*arguments)
  seconds = time.perf_counter() - start
  processor = time.process_time() - processor
  return Lowered(lowered, arguments, seconds, processor)


def build(traced: Lowered, flops: float = 0.0) -> Program:
  """Compiles the function and counts its cost."""
  start, processor = time.perf_counter(), time.process_time()
  compiled = traced.lowered.compile()
  seconds = time.perf_counter() - start
  processor = time.process_time() - processor
  return Program(
    compiled,
    traced.arguments,
    _instructions(compiled),
    traced.seconds + seconds,
    traced.processor_seconds + processor,
    compiled.memory_analysis().temp_size_in_bytes,
    flops,
  )


def _instructions(compiled: Any) -> str:
  """A compiled program without its references to the source."""
  text = re.sub(r", metadata=\{[^}]*\}", "", compiled.as_text())
  starts = (" ", "%", "ENTRY", "}")
  return "\n".join(x for x in text.splitlines() if x.startswith(starts))


def forward(op: Function) -> Function:
  """`inputs -> (y, state)`."""
  return lambda inputs: op(**inputs)


def gradient(op: Function) -> Function:
  """`(inputs, cotangents) -> loss and its gradient by every input`.

  The loss is the sum of y times its cotangents, plus the sum of the final
  state. Its value is returned too, so that the forward pass has no dead code.
  """

  def loss(inputs, cotangents):
    y, state = op(**inputs)
    return _dot(y, cotangents) + _dot(state, jax.tree.map(_one, state))

  return jax.value_and_grad(loss)


def cotangents(op: Function, inputs: Any) -> Any:
  """The shapes of y, for `gradient`."""
  return jax.eval_shape(lambda inputs: op(**inputs)[0], inputs)


def directions(op: Function, inputs: Mapping[str, Any]) -> dict[str, Any]:
  """Functions and arguments of both directions."""
  shapes = cotangents(op, inputs)
  if all(isinstance(x, jax.Array) for x in inputs.values()):
    shapes = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
  return {
    "forward": (forward(op), (inputs,)),
    "gradient": (gradient(op), (inputs, shapes)),
  }


def _one(x: jax.Array) -> jax.Array:
  return jnp.ones_like(x)


def _dot(x: Any, weights: Any) -> jax.Array:
  """Sums the products of all float leaves."""
  total = jnp.zeros((), jnp.float32)
  for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(weights), strict=True):
    if jnp.issubdtype(a.dtype, jnp.inexact):
      product = jnp.real(a * b).astype(jnp.float32)
      total = total + jnp.sum(product)
  return total
