"""Entries of a stack (modules, names, names with options) and its layouts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLP, GatedMLP
from jaxmodels.mixers import GLA, SoftmaxAttention
from jaxmodels.models import Backbone, LanguageModel
from jaxmodels.models.block import Block
from tests.models.stacks import Fields, Leaky, TokenShift

VOCAB, WIDTH = 7, 8
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 6))
X = np.random.default_rng(1).normal(size=(2, 6, WIDTH)).astype(np.float32)

BY_NAME = {
  "mixers": ("gla", "sliding_attention"),
  "mixer_options": {
    "gla": {"heads": 2, "gate_rank": 2},
    "sliding_attention": {"heads": 2, "window": 3},
  },
  "mlp_options": {"hidden": 5},
}
SAME = {
  "modules": {
    "mixers": (
      GLA(WIDTH, heads=2, gate_rank=2),
      SoftmaxAttention(WIDTH, heads=2, window=3),
    ),
    "mlp": GatedMLP(WIDTH, 5),
  },
  "pairs": {
    "mixers": (
      ("gla", {"heads": 2, "gate_rank": 2}),
      ("sliding_attention", {"heads": 2, "window": 3}),
    ),
    "mlp": ("gated_mlp", {"hidden": 5}),
  },
  "mixed": {
    "mixers": (
      ("gla", {"gate_rank": 2}),
      SoftmaxAttention(WIDTH, heads=2, window=3),
    ),
    "mixer_options": {"gla": {"heads": 2, "gate_rank": 9}},
    "mlp": ("gated_mlp",) * 2,
    "mlp_options": {"hidden": 5},
  },
}


@pytest.fixture(
  scope="module",
  params=[
    pytest.param(False, id="loop"),
    pytest.param(True, id="scan", marks=pytest.mark.slow),
  ],
)
def named(request):
  """A model built from names, and its programs."""
  model = LanguageModel(VOCAB, WIDTH, 4, scan_layers=request.param, **BY_NAME)
  return model, programs(model)


def programs(model):
  """What `init` and `apply` compute, and the trees that they return."""
  key = jax.random.key(0)
  variables = jax.eval_shape(model.init, key, TOKENS)
  traced = (
    jax.make_jaxpr(model.init, return_shape=True)(key, TOKENS),
    jax.make_jaxpr(model.apply, return_shape=True)(variables, TOKENS),
  )
  return [(str(program), shapes) for program, shapes in traced]


@pytest.mark.parametrize("entries", SAME)
def test_modules_names_and_options_build_the_same_model(named, entries):
  """Programs with the same operations give the same bits."""
  model, wanted = named
  fields = {"mixer_options": {}, "mlp_options": {}, **SAME[entries]}
  other = model.clone(**fields)
  assert programs(other) == wanted
  equal(other.init_state(2), model.init_state(2))


def equal(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_hybrid_may_have_attention_with_two_windows(scan_layers):
  windows = (2, 5)
  model = Backbone(
    WIDTH,
    2,
    tuple(SoftmaxAttention(WIDTH, heads=2, window=w) for w in windows),
    mlp="none",
    scan_layers=scan_layers,
  )
  state = model.init_state(1)
  for (own, _), window in zip(state, windows, strict=True):
    alone = SoftmaxAttention(WIDTH, heads=2, window=window).init_state(1)
    if scan_layers:
      alone = jax.tree.map(lambda leaf: leaf[None], alone)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, alone)


class Around(Fields):
  """A class that is not in the registry, and holds another mixer."""

  inner: nn.Module | None = None

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    y, state = self.inner(x, state, segment_ids=segment_ids)
    return y + nn.Dense(self.width)(x), state

  def init_state(self, batch_size):
    return self.inner.init_state(batch_size)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_mixer_of_the_user_may_hold_another_mixer(scan_layers, remat):
  inner = Leaky(WIDTH)
  model = LanguageModel(
    VOCAB,
    WIDTH,
    2,
    (Around(inner=inner), Around(inner=inner)),
    mlp=TokenShift(),
    scan_layers=scan_layers,
    remat=remat,
  )
  variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
  backbone = variables["params"]["backbone"]
  layers = backbone["repeats"] if scan_layers else backbone
  first = layers["block_0" if scan_layers else "layer_0"]
  assert set(first["mixer"]) == {"inner", "Dense_0"}
  assert set(first["mlp"]) == {"Dense_0"}
  whole, _ = jax.jit(model.apply)(variables, TOKENS, model.init_state(2))
  state, parts = model.init_state(2), []
  for part in (TOKENS[:, :4], TOKENS[:, 4:]):
    logits, state = jax.jit(model.apply)(variables, part, state)
    parts.append(logits)
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)


def test_a_mixer_made_inside_another_module_is_not_bound_to_it():
  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Backbone(WIDTH, 1, (Leaky(decay=0.3),), mlp="none")(x)[0]

  shapes = jax.eval_shape(Outer().init, jax.random.key(0), X)["params"]
  assert set(shapes) == {"Backbone_0"}
  assert set(shapes["Backbone_0"]["layer_0"]) == {"mixer", "mixer_norm"}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_each_layer_may_have_another_channel_mixer(scan_layers):
  mlps = ("none", MLP(WIDTH, hidden=3), "gated_mlp")
  model = Backbone(
    WIDTH, 6, (Leaky(), Leaky(decay=0.1)), mlp=mlps, scan_layers=scan_layers
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
  layers = shapes["repeats"] if scan_layers else shapes
  prefix = "block" if scan_layers else "layer"
  for i in range(6):
    layer = layers[f"{prefix}_{i}"]
    names = [set(), {"input", "output"}, {"gate", "value", "output"}][i % 3]
    assert set(layer.get("mlp", {})) == names
  # 6 mixers and 4 channel mixers write to the stream.
  blocks = model.pattern()
  assert {b.mixer.module.output_scale for b in blocks} == {10**-0.5}


WRONG = {
  "width": (
    {"mixers": (Leaky(width=3),)},
    "mixer Leaky: width is 3, but the model sets 8",
  ),
  "class": ({"mixers": (Leaky,)}, "got the class Leaky: write Leaky"),
  "number": ({"mixers": (3,)}, r"a mixer is a module, a name or \(name, opt"),
  "pair": (
    {"mixers": (("gla", {"heds": 2}),)},
    "mixer 'gla': unknown field 'heds'; did you mean 'heads'",
  ),
  "only a pair": ({"mixers": ("gla", {})}, "must be a tuple of modules, names"),
  "no field": (
    {"mixers": (nn.Dense(8),)},
    "mixer Dense: Dense has no field width, which the model sets",
  ),
  "mlp": ({"mlp": ("mpl", "none")}, "unknown mlp 'mpl'; did you mean 'mlp'"),
  "no mlp": ({"mlp": ()}, "mlp must be an entry or a tuple of entries, got"),
  "axis": (
    {"axis_name": "s"},
    "mixer Leaky does not support sharded sequences",
  ),
  "axis of an mlp": (
    {"axis_name": "s", "mixers": ("s5",), "mlp": TokenShift()},
    "mlp TokenShift does not support sharded sequences: it has a s",
  ),
  "pattern": (
    {"mlp": ("mlp",) * 3, "scan_layers": True},
    "depth must be a multiple of 3, the layers after which the pattern rep",
  ),
  "norm": (
    {"norm": "batch"},
    "unknown norm 'batch'; known are layer, layer_unbiased, rms, rms_biased",
  ),
  "layout": ({"layout": "prenorm"}, "unknown layout 'prenorm'; did you mean "),
  "layouts": (
    {"layout": ("pre_norm", "res_norm")},
    "unknown layout 'res_norm'; did you mean ",
  ),
  "no layout": ({"layout": ()}, "Backbone: layout must not be empty"),
  "skip": (
    {"layout": "parallel", "skip_scale": 2.0},
    "'parallel' has one write to the stream, so skip_scale must be 1, got 2",
  ),
  "residual": (
    {"residual_scale": (0.5, 0.5)},
    r"residual_scale must be a number, or a tuple of pairs .* got \(0.5, 0.5\)",
  ),
  "epsilon": ({"norm_epsilon": 0}, "norm_epsilon must be a number above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_raises_an_error_of_one_line(case):
  fields, match = WRONG[case]
  model = Backbone(
    **{"width": WIDTH, "depth": 4, "mixers": (Leaky(),)} | fields
  )
  with pytest.raises(ValueError, match=match) as error:
    jax.eval_shape(model.init, jax.random.key(0), X)
  assert "\n" not in str(error.value)


NORMS = {
  "rms": lambda x, p: x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-2),
  "layer": lambda x, p: (
    (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
  ),
}


LAYOUTS = {
  "pre_norm": {},
  "post_norm": {},
  "parallel": {},
  "no_norm": {"layout": "no_norm"},
  "scales": {
    "layout": "post_norm",
    "skip_scale": ((1.5, 0.9),),
    "residual_scale": ((0.3, 0.7),),
  },
  "mixed": {
    "layout": ("pre_norm", "res_post_norm"),
    "norm_offset": 0.75,
    "residual_scale": 0.3,
  },
}


@pytest.mark.parametrize(
  ("case", "norm", "scan_layers"),
  [
    (case, norm, scan_layers)
    for case, fields in LAYOUTS.items()
    for norm in NORMS
    for scan_layers in (False, True)
    # Options are read in the same place with either norm.
    if not fields or (norm == "layer") == scan_layers
  ],
)
def test_layouts_and_norms_equal_their_equations(case, norm, scan_layers):
  fields = {"layout": case} | LAYOUTS[case]
  model = Backbone(
    WIDTH,
    2,
    (Leaky(decay=0.5),),
    mlp=TokenShift(),
    norm=norm,
    norm_epsilon=1e-2,
    input_norm=True,
    scan_layers=scan_layers,
    **fields,
  )
  skip = fields.get("skip_scale", ((1, 1),))[0]
  write = fields.get("residual_scale", ((1, 1),))
  write = write[0] if isinstance(write, tuple) else (write, write)
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]
  rng = np.random.default_rng(2)
  params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), params)
  params = jax.tree.map(lambda p: np.asarray(p, np.float32), params)

  def n(p, x):
    scale = p["scale"] + fields.get("norm_offset", 0)
    return NORMS[norm](x, p) * scale + p.get("bias", 0)

  def mixer(p, x):
    x, h, y = x @ p["mixer"]["Dense_0"]["kernel"], 0, []
    for t in range(x.shape[1]):
      h = 0.5 * h + x[:, t]
      y.append(h)
    return np.stack(y, 1)

  def mlp(p, x):
    before = np.concatenate([0 * x[:, :1], x[:, :-1]], 1)
    return (x - before) @ p["mlp"]["Dense_0"]["kernel"]

  x = n(params["input_norm"], X.astype(np.float64))
  for i in range(2):
    layouts = model._layouts()
    layout = layouts[i % len(layouts)]
    if scan_layers:
      j, k = i % len(layouts), i // len(layouts)
      p = params["repeats"][f"block_{j}"]
      p = jax.tree.map(lambda leaf, k=k: leaf[k], p)
    else:
      p = params[f"layer_{i}"]
    if layout == "parallel":
      u = n(p["norm"], x)
      x = x + mixer(p, u) + mlp(p, u)
      continue
    for j, (part, f) in enumerate({"mixer": mixer, "mlp": mlp}.items()):
      own = p.get(f"{part}_norm")
      if layout == "no_norm":
        x = x + f(p, x)
      elif layout == "pre_norm":
        x = skip[j] * x + write[j] * f(p, n(own, x))
      elif layout == "res_post_norm":
        x = skip[j] * x + write[j] * n(own, f(p, x))
      else:
        x = n(own, skip[j] * x + write[j] * f(p, x))
  if layout != "post_norm":
    x = n(params["norm"], x)
  y, _ = jax.jit(model.apply)({"params": params}, X)
  np.testing.assert_allclose(y, x, rtol=0, atol=2e-5 * np.abs(x).max())


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_layer_may_be_a_channel_mixer_alone(scan_layers):
  """As in Nemotron-H; also where the sequence is sharded."""
  model = Backbone(
    WIDTH,
    4,
    (Leaky(), MLP(WIDTH, hidden=3, activation="relu2", use_bias=False)),
    mlp="none",
    scan_layers=scan_layers,
  )
  variables = jax.jit(model.init)(jax.random.key(0), X)
  params = variables["params"]
  layer = params["repeats"]["block_1"] if scan_layers else params["layer_1"]
  assert set(layer) == {"mixer_norm", "mixer"}
  assert set(layer["mixer"]) == {"input", "output"}
  assert set(layer["mixer"]["input"]) == {"kernel"}
  y, state = jax.jit(model.apply)(variables, X)
  assert jax.tree.structure(state) == jax.tree.structure(model.init_state(2))
  _, middle = jax.jit(model.apply)(variables, X[:, :4])
  rest, _ = jax.jit(model.apply)(variables, X[:, 4:], middle)
  np.testing.assert_allclose(rest, y[:, 4:], rtol=0, atol=1e-6)
  sharded = model.clone(mixers=("s5", model.mixers[1]), axis_name="s")
  assert all(isinstance(b, Block) for b in sharded.pattern())


def test_the_last_norm_can_differ_from_those_of_the_layers():
  model = Backbone(
    WIDTH,
    1,
    (Leaky(),),
    mlp="none",
    norm="layer_unbiased",
    norm_epsilon=1e-2,
    final_norm="rms_biased",
    final_norm_epsilon=0.5,
  )
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]
  scale, bias = np.random.default_rng(0).normal(size=(2, WIDTH))
  params["norm"] = {"scale": scale.astype("f4"), "bias": bias.astype("f4")}
  own = params["layer_0"]
  assert own["mixer_norm"].keys() == {"scale"}
  x = X.astype(np.float64)
  y, _ = Leaky(width=WIDTH).apply(
    {"params": own["mixer"]}, NORMS["layer"](X, None)
  )
  x = x + np.asarray(y, np.float64)
  wanted = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 0.5) * scale + bias
  found, _ = jax.jit(model.apply)({"params": params}, X)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
