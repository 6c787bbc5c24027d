"""Arguments of ops: NumPy float64, lists, axes of length 0, other objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.engine import arguments
from jaxmodels.ops.linear_attention import FAMILY, Tokens

OWN = ops.make_op("own", FAMILY, Tokens)


def draw(B=2, L=5, H=3, K=4, V=6, D=4):
  """Arguments of every op, in float64."""

  def n(*shape):
    return np.random.default_rng(0).standard_normal(shape)

  qkv = {"q": n(B, L, H, K), "k": n(B, L, H, K), "v": n(B, L, H, V)}
  gate, key_gate = -(n(B, L, H) ** 2), -(n(B, L, H, K) ** 2)
  beta = np.ones((B, L, H))
  steps = {"k": n(B, L, 2, H, K), "v": n(B, L, 2, H, V)}
  state = n(B, H, K, V)
  state_space = {"F": np.eye(2), "Q": np.eye(2), "H": n(1, 2), "R": np.eye(1)}
  start = {"mean": n(2), "covariance": np.eye(2)}
  cache = np.ones((B, 2), bool)
  return {
    "linear_attention": {**qkv, "log_decay": gate, "initial_state": state},
    "linear_attention, bonus": {
      **qkv,
      "log_decay": key_gate,
      "bonus": n(H, K),
      "initial_state": state,
    },
    "delta_rule": {**qkv, "beta": beta, "log_decay": key_gate},
    "delta_rule, gates": {
      **qkv,
      "beta": np.ones((B, L, H, K)),
      "write_gate": np.ones((B, L, H, V)),
    },
    "dplr_recurrence": {
      **qkv,
      "a": n(B, L, H, K),
      "b": n(B, L, H, K),
      "log_decay": key_gate,
      "initial_state": state,
    },
    "householder_product": {
      **qkv,
      **steps,
      "beta": np.ones((B, L, 2, H)),
      "log_decay": gate,
      "initial_state": state,
    },
    "normalized_linear_attention": {
      **qkv,
      "log_input_gate": n(B, L, H),
      "log_forget_gate": gate,
      "initial_state": (state, n(B, H, K), n(B, H)),
    },
    "selective_scan": {
      "x": n(B, L, D),
      "dt": n(B, L, D) ** 2,
      "A": -(n(D, K) ** 2),
      "B": n(B, L, K),
      "C": n(B, L, K),
      "D": n(D),
      "initial_state": n(B, D, K),
    },
    "diagonal_recurrence": {
      "a": n(B, L, D),
      "b": n(B, L, D),
      "initial_state": n(B, D),
    },
    "dense_recurrence": {
      "A": n(B, L, K, K),
      "b": n(B, L, K),
      "initial_state": n(B, K),
    },
    "state_space": {
      "x": n(B, L, D),
      "A": n(D, K) / 4,
      "B": n(D, K),
      "C": n(D, K),
      "initial_state": n(B, D, K),
    },
    "causal_convolution": {
      "x": n(B, L, D),
      "kernel": n(3, D),
      "initial_state": n(B, 2, D),
    },
    "attention": {
      **qkv,
      "q": n(B, L, 2 * H, K),
      "window": 3,
      "initial_state": (n(B, 2, H, K), n(B, 2, H, V), cache),
    },
    "bidirectional": {**qkv, "log_decay": gate},
    "long_convolution": {"x": n(B, L, D), "kernel": n(3, D)},
    "kalman_filter": {"y": n(L, 1), **state_space, **start},
    "kalman_smoother": {"y": n(L, 1), **state_space, **start},
    "own": {**qkv, "log_decay": key_gate, "initial_state": state},
  }


NAMES = list(draw())
KALMAN = ("kalman_filter", "kalman_smoother")
WITHOUT_STATE = (*KALMAN, "bidirectional", "long_convolution")
METHODS = {
  "long_convolution": (None,),
  "causal_convolution": ("auto", "recurrent"),
  "attention": ("auto", "quadratic", "chunked", "recurrent"),
  "bidirectional": ("auto", "quadratic"),
}
FORMS = ("auto", "recurrent", "associative", "chunked", "chunk_parallel")
each_op = pytest.mark.parametrize("name", NAMES)


def op_named(name):
  return OWN if name == "own" else getattr(ops, name.partition(",")[0])


def shapes_of(name, given, **options):
  """Shapes and dtypes of all results, without compilation."""
  fixed = {n: x for n, x in given.items() if isinstance(x, int)}
  call = functools.partial(op_named(name), **{**given, **fixed}, **options)
  return jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(call))


def as_lists(x):
  return x.tolist() if isinstance(x, np.ndarray) else x


@each_op
def test_numpy_float64_and_lists_act_like_float32(name):
  """Tests turn warnings into errors and do not promote dtypes."""
  given = draw()[name]
  ids = {} if name in WITHOUT_STATE else {"segment_ids": np.zeros((2, 5), int)}
  narrow = jax.tree.map(
    lambda x: x.astype(np.float32) if np.asarray(x).dtype == float else x, given
  )
  wanted = shapes_of(name, narrow, **jax.tree.map(np.int32, ids))
  assert "float64" not in str(wanted)
  assert shapes_of(name, given, **ids) == wanted
  lists = jax.tree.map(as_lists, given)
  assert shapes_of(name, lists, **jax.tree.map(as_lists, ids)) == wanted


def test_numbers_are_converted_to_the_nearest_without_a_warning():
  """In the dtype that JAX uses for that of NumPy."""
  wide = np.array([1 / 3, -1e300, 1e-300])
  got = arguments.array("op", "x", wide)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, np.float32([1 / 3, -np.inf, 0]))
  np.testing.assert_array_equal(arguments.array("op", "x", wide.tolist()), got)
  rows = [jnp.ones(2), jnp.zeros(2)]
  np.testing.assert_array_equal(
    arguments.array("op", "x", rows), [[1, 1], [0, 0]]
  )
  traced = jax.jit(lambda a, b: arguments.array("op", "x", [a, b]))(*rows)
  np.testing.assert_array_equal(traced, [[1, 1], [0, 0]])
  assert arguments.array("op", "x", np.array([3])).dtype == jnp.int32
  assert arguments.array("op", "x", None) is None
  assert arguments.array("op", "x", traced) is traced
  with pytest.raises(ValueError, match=r"^op: x must fit int32, got numbers"):
    arguments.array("op", "x", np.array([0, 2**32]))


def test_numpy_float64_gives_the_results_of_float32():
  given = draw(B=1, H=1)["linear_attention"]
  op = functools.partial(ops.linear_attention, method="chunked")
  wanted = op(**jax.tree.map(np.float32, given))
  got = op(**given)
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def refusal(name, given):
  """The error of one line that an op raises."""
  op = name.partition(",")[0]
  with pytest.raises(ValueError, match=f"^{op}: ") as caught:
    shapes_of(name, given)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_STATE])
def test_the_error_names_a_wrong_state(name):
  """The usual mistake is to pass the whole result of an op as the state."""
  given = draw()[name]
  y = np.ones((2, 5, 3, 6))
  state = given.pop("initial_state", np.ones((2, 3, 4, 6)))
  parts = state if isinstance(state, tuple) else (state,)
  for wrong in (
    (y, state),
    [y, state],
    (state,),
    "state",
    {"S": 1.0},
    3.0,
    y,
    object(),
    (*parts[:-1], parts[-1][..., :-1]),
  ):
    line = refusal(name, {**given, "initial_state": wrong})
    assert "initial_state" in line and len(line) < 200, line
  line = refusal(name, {**given, "initial_state": (y, state)})
  assert "an op returns y and its state: give the state" in line


@each_op
def test_the_error_names_an_argument_that_is_no_array(name):
  given = draw()[name]
  for argument in given:
    if argument in ("window", "initial_state"):
      continue
    for wrong in ("abc", object(), [[1.0], [1.0, 2.0]]):
      line = refusal(name, {**given, argument: wrong})
      assert f"{argument} must be" in line and len(line) < 200, line


EMPTY = [
  {"B": 0},
  {"L": 0},
  {"H": 0},
  {"K": 0},
  {"V": 0},
  {"D": 0},
  {"B": 0, "L": 0},
  {"L": 1, "H": 0},
]


def check_empty(name, sizes, method):
  """Checks shapes, finite gradients, and that y is 0 if K is."""
  given, full = draw(**sizes)[name], draw()[name]
  if jax.tree.map(np.shape, given) == jax.tree.map(np.shape, full):
    return  # The op has no such axis.
  given.pop("initial_state", None)
  options = {"window": given.pop("window")} if "window" in given else {}
  if method is not None:
    options["method"] = method
  given = jax.tree.map(np.float32, given)
  with_ids = name not in WITHOUT_STATE or name == "bidirectional"
  leading = given.get("v", given.get("b", given.get("x"))).shape[:2]
  for ids in (None, np.zeros(leading, np.int32)) if with_ids else (None,):
    call = functools.partial(op_named(name), **options)
    if ids is not None:
      call = functools.partial(call, segment_ids=ids)

    def results(given, call=call):
      def y_of(given):
        out = call(**given)
        return out[0] if isinstance(out, tuple) else out

      y, pull_back = jax.vjp(y_of, given)
      return y, pull_back(jnp.ones_like(y))[0]

    y, slopes = jax.jit(results)(given)
    like = given.get("v", given.get("b", given.get("x")))
    shape = like.shape
    if "v" in given:
      shape = (*given["q"].shape[:-1], like.shape[-1])
    assert y.shape == shape
    for argument, x in given.items():
      assert slopes[argument].shape == x.shape
      assert np.isfinite(slopes[argument]).all()
    if sizes.get("K") == 0 and name not in ("attention", "selective_scan"):
      assert not np.asarray(y).any()


# By default all are traced, see below.
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      n,
      marks=() if n in ("delta_rule", "attention") else pytest.mark.exhaustive,
    )
    for n in NAMES
    if n not in KALMAN
  ],
)
def test_axes_of_length_zero_give_values_and_gradients(name):
  for sizes in EMPTY:
    for method in METHODS.get(name, FORMS):
      check_empty(name, sizes, method)


@pytest.mark.parametrize("method", FORMS)
def test_an_empty_batch_runs_in_every_form(method):
  check_empty("linear_attention", {"B": 0}, method)


@pytest.mark.parametrize(
  "name", [n for n in NAMES if n not in KALMAN and n != "linear_attention"]
)
def test_axes_of_length_zero_can_be_traced(name):
  """Only shapes, in the form of "auto"."""
  for sizes in EMPTY:
    given = draw(**sizes)[name]
    shapes_of(name, given)
