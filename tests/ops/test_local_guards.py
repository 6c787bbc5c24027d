"""Numeric guards of the convolution and of attention."""

import chex
import jax
import numpy as np
import pytest

from jaxmodels.ops import attention, causal_convolution
from jaxmodels.ops.engine import checks

X = np.ones((1, 3, 2), np.float32)
NAN = np.where(np.arange(2) == 1, np.nan, X).astype(np.float32)
Q, BAD = X[:, :, None], NAN[:, :, None]


def convolve(**arguments):
  return causal_convolution(**({"x": X, "kernel": X[0]} | arguments))


def attend(**arguments):
  return attention(**({"q": Q, "k": Q, "v": Q} | arguments))


@pytest.mark.parametrize(
  ("call", "wrong", "match"),
  [
    (convolve, {"x": NAN}, "causal_convolution: x must be finite"),
    (convolve, {"kernel": NAN[0]}, "kernel must be finite"),
    (convolve, {"initial_state": NAN[:, 1:]}, "initial_state must be finite"),
    (attend, {"q": BAD}, "attention: q must be finite"),
    (attend, {"v": BAD}, "attention: v must be finite"),
  ],
)
def test_wrong_numbers_are_named_where_guards_are_on(call, wrong, match):
  call(**wrong)
  with checks.numerics():
    call()
    with pytest.raises(ValueError, match=match):
      call(**wrong)
    compiled = chex.chexify(
      jax.jit(lambda arrays: call(**arrays)), async_check=False
    )
    # chexify has an error of its own for what fails in a compiled program.
    with pytest.raises((ValueError, AssertionError), match=match):
      compiled(wrong)
