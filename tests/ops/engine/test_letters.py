"""Shapes in letters: the sizes that they bind, and errors for wrong shapes."""

import numpy as np
import pytest

from jaxmodels.ops.engine import checks


def arguments(**shapes):
  """Calls `checks.arguments` with arrays of these shapes."""
  return checks.arguments(
    "op",
    **{
      name: (None if shape is None else np.zeros(shape), letters)
      for name, (shape, letters) in shapes.items()
    },
  )


def test_letters_bind_sizes_and_batch_axes():
  sizes = arguments(
    k=((2, 3, 5, 4, 8), "... L H K"),
    decay=((2, 3, 5, 4), "... L H | ... L H K"),
    left_out=(None, "H K"),
    bonus=((4, 8), "H K"),
    matrix=((7, 7), "N N"),
  )
  batch = sizes.pop("...")
  assert batch == (2, 3)
  assert sizes == {"L": 5, "H": 4, "K": 8, "N": 7}


def test_letters_allow_no_batch_axis_and_further_axes():
  sizes = arguments(
    b=((5, 3, 2), "L ..."), a=((5, 3, 2), "L ..."), w=((5, 9, 9), "L *")
  )
  assert sizes == {"L": 5, "...": (3, 2)}


@pytest.mark.parametrize(
  ("shapes", "message"),
  [
    (
      {"k": ((3,), "... L H K")},
      "op: k must be [..., L, H, K], got shape (3)",
    ),
    (
      {"k": ((2, 5, 4, 8), "... L H K"), "v": ((2, 6, 4, 3), "... L H V")},
      "op: v must be [..., L, H, V] = (2, 5, 4, 3), got shape (2, 6, 4, 3)",
    ),
    (
      {"k": ((5, 4, 8), "... L H K"), "g": ((5,), "... L H | ... L H K")},
      "op: g must be [..., L, H] or [..., L, H, K] = (5, 4), got shape (5)",
    ),
    (
      {"k": ((5, 4, 8), "... L H K"), "g": ((5, 4, 7), "... L H | ... L H K")},
      "op: g must be [..., L, H] or [..., L, H, K] = (5, 4, 8), got shape "
      "(5, 4, 7)",
    ),
    (
      {"k": ((5, 8), "L K"), "A": ((3, 8), "M")},
      "op: A must be [M], got shape (3, 8)",
    ),
    (
      {"x": ((5, 8), "L D"), "A": ((4, 3, 3), "D N N")},
      "op: A must be [D, N, N] = (8, 3, 3), got shape (4, 3, 3)",
    ),
    ({"A": ((3, 4), "N N")}, "op: A must be [N, N], got shape (3, 4)"),
    (
      {"b": ((2, 5, 3), "B L ..."), "a": ((2, 5, 4), "B L ...")},
      "op: a must be [B, L, ...] = (2, 5, 3), got shape (2, 5, 4)",
    ),
    (
      {"x": ((2, 5, 3), "B L H *"), "w": ((2, 5), "B L H *")},
      "op: w must be [B, L, H, ...] = (2, 5, 3, any), got shape (2, 5)",
    ),
  ],
)
def test_a_wrong_shape_raises_an_error_of_one_line(shapes, message):
  with pytest.raises(ValueError) as caught:
    arguments(**shapes)
  assert str(caught.value) == message


def test_shared_heads_of_a_pytree_divide_the_others():
  v = np.zeros((2, 5, 4, 3)), "B L H V"
  keys = {"k": np.zeros((2, 5, 2, 8))}
  sizes = checks.arguments("op", v=v, tokens=(keys, "B L h K"))
  assert (sizes["h"], sizes["H"]) == (2, 4)
  keys = {"k": np.zeros((2, 5, 3, 8))}
  words = r"op: tokens\['k'\] must be .* where h divides H = 4, got shape"
  with pytest.raises(ValueError, match=words):
    checks.arguments("op", v=v, tokens=(keys, "B L h K"))


def test_the_error_names_a_leaf_of_a_pytree():
  state = {"sum": np.zeros((2, 3)), "weight": np.zeros((4,))}
  with pytest.raises(ValueError, match=r"op: state\['weight'\] must be \[B"):
    checks.arguments("op", x=(np.zeros((2, 5)), "B L"), state=(state, "B *"))
