"""Rules between the tensors of a file and the parameters of a model.

A rule is read in both directions: loading maps their tensors to our parameters,
and saving maps them back. So each function here gives a map and its inverse.
Paths of parameters are joined by "/", such as "backbone/layer_0/mixer/D".
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

__all__ = [
  "Rule",
  "constant",
  "convolution",
  "dense",
  "ignored",
  "joined",
  "kernel",
  "mapped",
  "same",
  "split",
  "stacked",
]

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """Some of their tensors, some of our parameters, and the two maps.

  Attributes:
    theirs: Names of tensors.
    ours: Paths of parameters; none for a tensor that the model recomputes.
    read: Their tensors to our parameters.
    write: Our parameters to their tensors.
    optional: Whether a file may lack the tensors; they are then not read, and
      in any case not written.
    recut: Whether their tensors are consecutive parts, along the first axis, of
      one array that a file may cut in other places.
    instead: Another rule for the same parameters, which holds for files that
      have its tensors and not those of this rule.
  """

  theirs: tuple[str, ...]
  ours: tuple[str, ...]
  read: Callable[[Arrays], Arrays]
  write: Callable[[Arrays], Arrays]
  optional: bool = False
  recut: bool = False
  instead: "Rule | None" = None


def mapped(
  theirs: str,
  ours: str,
  read: Callable[[np.ndarray], np.ndarray],
  write: Callable[[np.ndarray], np.ndarray],
) -> Rule:
  """One tensor, one parameter, and the maps between them."""
  return Rule(
    (theirs,), (ours,), lambda x: [read(x[0])], lambda x: [write(x[0])]
  )


def same(theirs: str, ours: str, shape: Sequence[int] | None = None) -> Rule:
  """A parameter that equals the tensor, whose shape may be another one.

  Args:
    theirs: The name of the tensor.
    ours: The path of the parameter.
    shape: The shape of the tensor if the parameter is flat: [shape's product].
  """
  if shape is None:
    return mapped(theirs, ours, lambda x: x, lambda x: x)
  return mapped(theirs, ours, np.ravel, lambda x: np.reshape(x, shape))


def kernel(theirs: str, ours: str) -> Rule:
  """The weight of a linear map: theirs [out, in], ours [in, out]."""
  return mapped(theirs, ours, _transposed, _transposed)


def dense(theirs: str, ours: str, bias: bool = False) -> Iterator[Rule]:
  """`theirs.weight` is `ours/kernel`, and `theirs.bias` is `ours/bias`."""
  yield kernel(f"{theirs}.weight", f"{ours}/kernel")
  if bias:
    yield same(f"{theirs}.bias", f"{ours}/bias")


def convolution(theirs: str, ours: str, bias: bool = False) -> Iterator[Rule]:
  """A convolution per channel: theirs [D, 1, W], ours [W, D]."""
  yield mapped(
    f"{theirs}.weight",
    f"{ours}/kernel",
    lambda x: _transposed(x[:, 0]),
    lambda x: _transposed(x)[:, None],
  )
  if bias:
    yield same(f"{theirs}.bias", f"{ours}/bias")


def split(
  theirs: str,
  ours: Sequence[str],
  sizes: Sequence[int],
  order: np.ndarray | None = None,
) -> Rule:
  """Rows of one tensor that belong to several parameters.

  Args:
    theirs: A weight [out, in], whose parts are transposed; or a vector [out].
    ours: The paths of the parameters.
    sizes: The number of rows of each; their sum is `out`.
    order: A permutation of the rows, if they are interleaved: row i of the
      reordered tensor is row order[i] of the file.
  """
  cuts = np.cumsum(sizes)[:-1]

  def read(tensors: Arrays) -> Arrays:
    (x,) = tensors
    if len(x) != sum(sizes):
      raise ValueError(f"there must be {sum(sizes)} rows")
    if order is not None:
      x = x[order]
    return [_transposed(part) for part in np.split(x, cuts)]

  def write(parameters: Arrays) -> Arrays:
    x = np.concatenate([_transposed(part) for part in parameters])
    return [x if order is None else x[np.argsort(order)]]

  return Rule((theirs,), tuple(ours), read, write)


def joined(theirs: Sequence[str], ours: str, sizes: Sequence[int]) -> Rule:
  """Several weights [out, in], or vectors, that are one of our parameters.

  Args:
    theirs: The names of the tensors, in the order of our channels.
    ours: The path of the parameter, whose last axis they share.
    sizes: The number of channels of each.
  """
  cuts = np.cumsum(sizes)[:-1]

  def read(tensors: Arrays) -> Arrays:
    return [np.concatenate([_transposed(x) for x in tensors], -1)]

  def write(parameters: Arrays) -> Arrays:
    parts = np.split(parameters[0], cuts, -1)
    return [_transposed(part) for part in parts]

  return Rule(tuple(theirs), (ours,), read, write)


def stacked(theirs: Sequence[str], ours: str) -> Rule:
  """Weights [out, in], one per expert; ours is [experts, in, out]."""
  return Rule(
    tuple(theirs),
    (ours,),
    lambda tensors: [np.stack([_transposed(x) for x in tensors])],
    lambda parameters: [_transposed(x) for x in parameters[0]],
  )


def constant(theirs: str, value: Callable[[], np.ndarray]) -> Rule:
  """A tensor of files that the model computes anew; it is written, not read."""
  return Rule((theirs,), (), lambda tensors: [], lambda parameters: [value()])


def ignored(*theirs: str) -> Rule:
  """Tensors that some files have, and that the public code does not use."""
  return Rule(theirs, (), lambda tensors: [], lambda parameters: [], True)


def _transposed(x: np.ndarray) -> np.ndarray:
  """Swaps the axes of a matrix; a vector stays."""
  return np.swapaxes(x, -1, -2) if x.ndim > 1 else x
