"""An op and a peer, an implementation by others, on the same inputs.

A peer is a function of the op's own arguments. It maps them to what the
other implementation wants, and its outputs back, in the open; the gradients
of both then are with respect to the same arguments.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.testing import relative_error, tolerance

FORMS = ("recurrent", "chunked", "chunk_parallel")
INSTALL = "pip install -c constraints.txt -e '.[peers]'"


def load(module: str, install: str = INSTALL) -> Any:
  """Imports a peer, or skips the test and says how to install it.

  What a peer's import warns of (deprecations inside it, no GPU) is not ours
  to mend; warnings while it runs stay errors. recurrentgemma checks its types
  by a typeguard before 4, which cannot be installed beside tyro: no checks.
  """
  with (
    warnings.catch_warnings(),
    mock.patch("typeguard.typechecked", lambda function: function),
  ):
    warnings.simplefilter("ignore")
    try:
      return importlib.import_module(module)
    except ModuleNotFoundError as missing:
      pytest.skip(f"{missing}; {install}")


def torch_peer(function: Callable) -> Callable:
  """`function(**tensors) -> tensors` as `(inputs, cotangents) -> results`."""
  torch = load("torch")

  def results(inputs, cotangents):
    leaves, tree = jax.tree.flatten(inputs)
    tensors = [torch.tensor(x, requires_grad=True) for x in leaves]
    outputs = function(**jax.tree.unflatten(tree, tensors))
    flat = jax.tree.leaves(outputs)
    gradients = torch.autograd.grad(
      flat, tensors, [torch.tensor(x) for x in jax.tree.leaves(cotangents)]
    )
    return jax.tree.map(
      lambda x: x.detach().numpy(),
      (outputs, jax.tree.unflatten(tree, gradients)),
    )

  return results


def jax_peer(function: Callable, gradients: bool = True) -> Callable:
  """`function(**arrays) -> arrays` as `(inputs, cotangents) -> results`.

  The promotions that our own tests forbid are the peer's to make.
  """

  def results(inputs, cotangents):
    with (
      jax.numpy_dtype_promotion("standard"),
      jax.numpy_rank_promotion("allow"),
    ):
      return _results(function, inputs, cotangents, gradients)

  return results


def drawn(draw: Callable, length: int = 75) -> dict[str, Any]:
  """The draws of `tests.ops.draws`, of a length no chunk divides."""
  return draw(np.random.default_rng(0), length)


def check(
  op: Callable,
  peer: Callable,
  inputs: dict[str, Any],
  *,
  forms: tuple[str, ...] = FORMS,
  gradients: bool = True,
  **options: Any,
) -> None:
  """Asserts that every form of an op equals a peer.

  Outputs, final state, and the gradients of all inputs, within the tolerance
  that the op's own definition is held to. Prints the errors: `pytest -s`.

  Args:
    op: one of `jaxmodels.ops`.
    peer: made by `torch_peer` or `jax_peer`.
    inputs: what both get, and what is differentiated, as numpy arrays.
    forms: the methods of the op.
    gradients: whether there are gradients to compare.
    **options: more arguments of the op.
  """
  inputs = jax.tree.map(_single, inputs)
  for form in forms:
    chosen = {"method": form} if form else {}

    def ours(chosen=chosen, **inputs):
      return op(**inputs, **chosen, **options)

    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(ours, **inputs)
    cotangents = jax.tree.map(lambda x, rng=rng: _draw(rng, x), shapes)
    result = _results(ours, inputs, cotangents, gradients)
    if form == forms[0]:
      expected = _like(peer(inputs, cotangents), result)
    _compare(f"{op.__name__} {form}".strip(), result, expected)


def _results(function, inputs, cotangents, gradients):
  """Outputs, and the gradients of the inputs."""

  @jax.jit
  def run(inputs, cotangents):
    if not gradients:
      return function(**inputs), {}
    outputs, pull_back = jax.vjp(lambda inputs: function(**inputs), inputs)
    return outputs, pull_back(_like(cotangents, outputs))[0]

  return run(jax.tree.map(jnp.asarray, inputs), cotangents)


def _compare(name, result, expected):
  """Every leaf on its own, so that a large one hides no small one."""
  errors = {
    jax.tree_util.keystr(path): relative_error(leaf, other)
    for (path, leaf), other in zip(
      jax.tree.leaves_with_path(result), jax.tree.leaves(expected), strict=True
    )
  }
  outputs = len(jax.tree.leaves(result[0]))
  worst = np.array(list(errors.values()))
  print(
    f"\n{name}: outputs {worst[:outputs].max():.1e},"
    f" gradients {worst[outputs:].max(initial=0):.1e}"
  )
  allowed = tolerance(np.float32)
  wrong = {key: error for key, error in errors.items() if not error < allowed}
  assert not wrong, f"{name}: relative errors {wrong}"


def _like(results, pattern):
  """Peers may return tuples where an op has its own."""
  return jax.tree.unflatten(
    jax.tree.structure(pattern), jax.tree.leaves(results)
  )


def _single(x):
  """In float32 or complex64."""
  return np.asarray(x, np.complex64 if np.iscomplexobj(x) else np.float32)


def _draw(rng, like):
  """A cotangent."""
  x = rng.standard_normal(like.shape)
  if np.issubdtype(like.dtype, np.complexfloating):
    x = x + 1j * rng.standard_normal(like.shape)
  return x.astype(like.dtype)
