"""The ops that are measured: their arguments, forms and plain definition."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scans
from jaxmodels import ops
from jaxmodels.ops.engine.recurrence import Method

ENGINE = typing.get_args(Method)
Inputs = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """B, L, H, and K = V; one fourth of it is the width of small states.

  Attributes:
    batch: B.
    length: L.
    heads: H.
    width: K and V; heads * width channels where there are no heads.
    steps: M of the Householder products.
  """

  batch: int = 2
  length: int = 4096
  heads: int = 4
  width: int = 64
  steps: int = 2

  @property
  def tokens(self) -> int:
    """B L."""
    return self.batch * self.length

  @property
  def small(self) -> int:
    """N of states that are no matrices: 16 where K is 64."""
    return max(self.width // 4, 1)


@dataclasses.dataclass(frozen=True)
class Case:
  """An op with one kind of arguments.

  Attributes:
    name: of the case; the op's, with what sets it apart.
    op: called as `op(**inputs, method=...)`.
    draw: `(sizes, rng) -> inputs`, float64.
    definition: the same as a plain `lax.scan`, called with the inputs.
    methods: the forms that the op names.
    matrix_state: whether the state is [K, V] a head.
  """

  name: str
  op: Callable[..., Any]
  draw: Callable[[Sizes, np.random.Generator], dict[str, np.ndarray]]
  definition: Callable[..., Any] | None = None
  methods: tuple[str, ...] = ENGINE
  matrix_state: bool = False

  def inputs(self, sizes: Sizes, dtype: Any = jnp.float32) -> Inputs:
    """Arrays of a fixed seed."""
    drawn = self.draw(sizes, np.random.default_rng(0))
    return {name: jnp.asarray(x, dtype) for name, x in drawn.items()}

  def shapes(self, sizes: Sizes, dtype: Any = jnp.float32) -> Any:
    """The inputs without their values, and without drawing them."""
    one = dataclasses.replace(sizes, length=1)
    two = dataclasses.replace(sizes, length=2)
    return jax.tree.map(
      lambda x, y: jax.ShapeDtypeStruct(
        tuple(
          a if a == b else a * sizes.length
          for a, b in zip(x.shape, y.shape, strict=True)
        ),
        x.dtype,
      ),
      self.inputs(one, dtype),
      self.inputs(two, dtype),
    )


def _keys(sizes: Sizes, *more: int) -> tuple[int, ...]:
  return (sizes.batch, sizes.length, *more, sizes.heads, sizes.width)


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  x = rng.standard_normal(shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _qkv(sizes, rng):
  return {
    "q": _unit(rng, _keys(sizes)),
    "k": _unit(rng, _keys(sizes)),
    "v": rng.standard_normal(_keys(sizes)),
  }


def _linear_attention(decay):
  def draw(sizes, rng):
    drawn = _qkv(sizes, rng)
    if decay is not None:
      shape = _keys(sizes) if decay == "key" else _keys(sizes)[:-1]
      drawn["log_decay"] = -0.1 * rng.exponential(size=shape)
    return drawn

  return draw


def _bonus(sizes, rng):
  drawn = _linear_attention("key")(sizes, rng)
  return drawn | {"bonus": rng.standard_normal((sizes.heads, sizes.width))}


def _delta_rule(decay):
  def draw(sizes, rng):
    drawn = _linear_attention(decay)(sizes, rng)
    return drawn | {"beta": rng.uniform(0, 1, _keys(sizes)[:-1])}

  return draw


def _gates(sizes, rng):
  return _linear_attention("key")(sizes, rng) | {
    "beta": rng.uniform(0, 1, _keys(sizes)),
    "write_gate": rng.uniform(0, 1, _keys(sizes)),
  }


def _dplr(sizes, rng):
  removed = _unit(rng, _keys(sizes))
  strength = rng.uniform(0, 1, (*_keys(sizes)[:-1], 1))
  drawn = _linear_attention("key")(sizes, rng)
  return drawn | {"a": -removed, "b": strength * removed}


def _householder(sizes, rng):
  keys = _keys(sizes, sizes.steps)
  return _linear_attention("head")(sizes, rng) | {
    "k": _unit(rng, keys),
    "v": rng.standard_normal(keys),
    "beta": rng.uniform(0, 1, keys[:-1]),
  }


def _normalized(sizes, rng):
  shape = _keys(sizes)[:-1]
  return _qkv(sizes, rng) | {
    "log_input_gate": rng.standard_normal(shape),
    "log_forget_gate": -0.1 * rng.exponential(size=shape),
  }


def _channels(sizes: Sizes) -> tuple[int, int, int]:
  return (sizes.batch, sizes.length, sizes.heads * sizes.width)


def _diagonal(sizes, rng):
  shape = _channels(sizes)
  return {"a": rng.uniform(0, 1, shape), "b": rng.standard_normal(shape)}


def _selective_scan(sizes, rng):
  shape = _channels(sizes)
  written = (*shape[:2], sizes.small)
  return {
    "x": rng.standard_normal(shape),
    "dt": rng.exponential(0.1, shape),
    "A": -rng.exponential(2.0, (shape[2], sizes.small)),
    "B": rng.standard_normal(written),
    "C": rng.standard_normal(written),
    "D": rng.standard_normal(shape[2]),
  }


def _dense(sizes, rng):
  shape = (sizes.batch, sizes.length, sizes.heads, sizes.small)
  scale = 1 / (2 * np.sqrt(sizes.small))
  return {
    "A": scale * rng.standard_normal((*shape, sizes.small)),
    "b": rng.standard_normal(shape),
  }


def _convolution(sizes, rng):
  shape = _channels(sizes)
  return {
    "x": rng.standard_normal(shape),
    "kernel": rng.standard_normal((4, shape[2])),
  }


def _kalman(sizes, rng):
  """States of 4 numbers, of which 2 are seen."""
  noise = (
    np.eye(4) + 0.1 * np.diag(np.ones(3), 1) + 0.1 * np.diag(np.ones(3), -1)
  )
  return {
    "y": rng.standard_normal((sizes.batch, sizes.length, 2)),
    "F": 0.9 * np.linalg.qr(rng.standard_normal((4, 4)))[0],
    "Q": 0.1 * noise,
    "H": rng.standard_normal((2, 4)),
    "R": np.eye(2),
    "mean": np.zeros(4),
    "covariance": np.eye(4),
  }


def _block_diagonal(**inputs):
  return ops.dense_recurrence(block_diagonal=True, **inputs)


def _without_state(op):
  return lambda **inputs: (op(**inputs), ())


def _batched(op):
  """A Kalman scan over the batch of y."""

  def call(y, *, method, **model):
    return jax.vmap(lambda y: op(y, **model, method=method))(y)

  return call


_KALMAN = ("auto", "recurrent", "chunk_parallel", "associative")
_CASES = (
  Case("diagonal_recurrence", ops.diagonal_recurrence, _diagonal,
       scans.diagonal_recurrence),
  Case("selective_scan", ops.selective_scan, _selective_scan,
       scans.selective_scan),
  *(
    Case(name, op, draw(decay), definition, matrix_state=True)
    for op, draw, definition in (
      (ops.linear_attention, _linear_attention, scans.linear_attention),
      (ops.delta_rule, _delta_rule, scans.delta_rule),
    )
    for decay, name in (
      ("head", op.__name__),
      (None, f"{op.__name__}_no_decay"),
      ("key", f"{op.__name__}_key_decay"),
    )
  ),
  Case("linear_attention_bonus", ops.linear_attention, _bonus,
       scans.linear_attention, matrix_state=True),
  Case("delta_rule_gates", ops.delta_rule, _gates, scans.delta_rule,
       matrix_state=True),
  Case("dplr_recurrence", ops.dplr_recurrence, _dplr, scans.dplr_recurrence,
       matrix_state=True),
  Case("householder_product", ops.householder_product, _householder,
       scans.householder_product, matrix_state=True),
  Case("normalized_linear_attention", ops.normalized_linear_attention,
       _normalized, scans.normalized_linear_attention, matrix_state=True),
  Case("dense_recurrence", _block_diagonal, _dense, scans.dense_recurrence),
  Case("bidirectional", _without_state(ops.bidirectional),
       _linear_attention("head"), None, (*ENGINE, "quadratic"),
       matrix_state=True),
  Case("causal_convolution", ops.causal_convolution, _convolution,
       scans.causal_convolution, ("auto", "recurrent", "chunk_parallel")),
  Case("attention", ops.attention, _qkv, None,
       ("auto", "recurrent", "chunked", "chunk_parallel")),
  Case("kalman_filter", _batched(ops.kalman_filter), _kalman, None, _KALMAN),
  Case("kalman_smoother", _batched(ops.kalman_smoother), _kalman, None,
       _KALMAN),
)  # fmt: skip
CASES = {case.name: case for case in _CASES}
