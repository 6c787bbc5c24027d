"""Errors of one line name mixers that break their contract."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLPS
from jaxmodels.mixers import GLA, MIXERS
from jaxmodels.models import LanguageModel

TOKENS = np.zeros((2, 3), np.int32)
FIELDS = {"width": int, "output_scale": float, "dtype": object}
FIELDS["param_dtype"] = object
CONTRACT = r"\(y, state\), with y \[B, L, D\] like x, and init_state"


class Fields(nn.Module):
  """The fields that a model sets."""

  width: int
  output_scale: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  def __call__(self, x, state=None, *, segment_ids=None):
    return x, state

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, 2))


class OnlyY(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x


class Three(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x, state, x


class LastToken(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x[:, -1:], state


class Complex(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x.astype(jnp.complex64), state


class Integers(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x.astype(jnp.int32), state


class NoSegments(Fields):
  def __call__(self, x, state=None):
    return x, state


class NoState(Fields):
  def __call__(self, x, *, segment_ids=None):
    return x, None


class Narrows(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x, jnp.zeros((2, 2), jnp.bfloat16)


class Grows(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x, jnp.zeros((2, 2 + x.shape[1]))


class Wraps(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x, (jnp.zeros((2, 2)),)


BREACHES = {
  OnlyY: rf"OnlyY must return \(y, state\), got float32\[2, 3, 4\].*{CONTRACT}",
  Three: rf"Three must return \(y, state\), got a tuple of 3.*{CONTRACT}",
  LastToken: r"LastToken must return y as .* \(2, 3, 4\), got float32\[2, 1, 4",
  Complex: r"Complex must return y as real floating .* got complex64\[2, 3, 4",
  Integers: r"Integers must return y as real floating .* got int32\[2, 3, 4",
  NoSegments: rf"NoSegments.__call__: .*'segment_ids'.*{CONTRACT}",
  NoState: rf"NoState.__call__: too many positional.*{CONTRACT}",
  Narrows: r"Narrows returns a state whose .* bfloat16\[2, 2\].* float32\[2, 2",
  Grows: r"Grows returns a state .* float32\[2, 5\], but its init_state makes",
  Wraps: r"Wraps returns a state of the structure .*but its init_state makes",
}


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("mixer", BREACHES)
def test_the_error_names_a_mixer_that_breaks_the_contract(
  monkeypatch, mixer, scan_layers
):
  monkeypatch.setitem(MIXERS, "own", mixer)
  # A batch of two rows: such an array could be unpacked as (y, state).
  model = LanguageModel(5, 4, 1, ("own",), scan_layers=scan_layers, mlp="none")
  for state in (None, "zero"):
    with pytest.raises(ValueError, match=BREACHES[mixer]) as raised:
      if state == "zero":
        state = model.init_state(2)
      jax.eval_shape(model.init, jax.random.key(0), TOKENS, state)
    assert "\n" not in str(raised.value)


def test_the_error_names_a_mixer_without_init_state(monkeypatch):
  class Stateless(nn.Module):
    width: int
    output_scale: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    def __call__(self, x, state=None, *, segment_ids=None):
      return x, state

  monkeypatch.setitem(MIXERS, "own", Stateless)
  model = LanguageModel(5, 4, 1, ("own",), mlp="none")
  model.init(jax.random.key(0), TOKENS)  # `init` needs no zero state.
  match = rf"Stateless has no init_state: .*{CONTRACT}"
  with pytest.raises(ValueError, match=match):
    model.init_state(2)


@pytest.mark.parametrize("field", list(FIELDS))
def test_the_error_names_a_mixer_without_a_field_of_the_model(
  monkeypatch, field
):
  others = {name: kind for name, kind in FIELDS.items() if name != field}
  lacking = type("Lacking", (nn.Module,), {"__annotations__": others})
  for table, model in (
    (MIXERS, LanguageModel(5, 4, 1, ("own",))),
    (MLPS, LanguageModel(5, 4, 1, ("s5",), mlp="own")),
  ):
    monkeypatch.setitem(table, "own", lacking)
    match = f"'own': Lacking has no field {field}, which the model sets"
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(model.init, jax.random.key(0), TOKENS)


def test_a_name_may_stand_for_a_function_that_makes_a_mixer(monkeypatch):
  monkeypatch.setitem(MIXERS, "own", lambda **given: GLA(**given, heads=2))
  model = LanguageModel(5, 8, 1, ("own",), {"own": {"gate_rank": 3}})
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
  mixer = shapes["backbone"]["layer_0"]["mixer"]
  assert mixer["decay_down"]["kernel"].shape == (8, 3)


class PairMLP(Fields):
  def __call__(self, x):
    return x, ()


class WideMLP(Fields):
  def __call__(self, x):
    return jnp.concatenate([x, x], -1)


class NoInputMLP(Fields):
  def __call__(self):
    return 0


@pytest.mark.parametrize(
  ("mlp", "match"),
  [
    (PairMLP, r"PairMLP must return an array y, got a tuple of 2: .*mlp\(x\)"),
    (WideMLP, r"WideMLP must return y as .* got float32\[2, 3, 8\]: a channel"),
    (NoInputMLP, r"NoInputMLP.__call__: too many positional .*mlp\(x\) -> y"),
  ],
)
def test_the_error_names_a_channel_mixer_that_breaks_the_contract(
  monkeypatch, mlp, match
):
  monkeypatch.setitem(MLPS, "own", mlp)
  model = LanguageModel(5, 4, 1, ("s5",), mlp="own")
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), TOKENS)


class GrowingMLP(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x, jnp.zeros((2, 2 + x.shape[1]))


class OnlyYMLP(Fields):
  def __call__(self, x, state=None, *, segment_ids=None):
    return x


class StatelessMLP(nn.Module):
  width: int
  output_scale: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  def __call__(self, x, state=None, *, segment_ids=None):
    return x, ()


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
  ("mlp", "match"),
  [
    (GrowingMLP, r"GrowingMLP returns a state .* but its init_state makes"),
    (OnlyYMLP, r"OnlyYMLP must return \(y, state\), got float32\[2, 3, 4\]: "),
    (StatelessMLP, r"StatelessMLP has no init_state: "),
  ],
)
def test_a_channel_mixer_with_a_state_must_keep_the_contract_of_a_mixer(
  monkeypatch, mlp, match, scan_layers
):
  monkeypatch.setitem(MLPS, "own", mlp)
  model = LanguageModel(5, 4, 1, ("own",), mlp="own", scan_layers=scan_layers)
  monkeypatch.setitem(MIXERS, "own", Fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), TOKENS, model.init_state(2))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_channel_mixer_may_take_x_alone(scan_layers):
  class Plain(nn.Module):
    width: int = 0
    output_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def __call__(self, x):
      return 2 * x

  class Pair(Plain):
    def __call__(self, x, state=None, *, segment_ids=None):
      return 2 * x, ()

    def init_state(self, batch_size):
      return ()

  results = []
  for mlp in (Plain(), Pair()):
    model = LanguageModel(5, 4, 2, ("s5",), mlp=mlp, scan_layers=scan_layers)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)
    results.append(jax.jit(model.apply)(params, TOKENS, model.init_state(2)))
  assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_state_with_another_number_of_layers_is_refused(scan_layers):
  options = {"s5": {"state_width": 4}, "gla": {"heads": 2}}
  model = LanguageModel(
    5, 8, 4, ("s5", "gla"), options, scan_layers=scan_layers
  )
  deeper = model.clone(depth=8, mixers=("s5", "gla") * 2)
  params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  state = deeper.init_state(2)
  with pytest.raises(ValueError, match=r"must be a tuple of (2|4) entries"):
    jax.eval_shape(model.apply, params, TOKENS, state)
