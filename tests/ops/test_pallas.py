"""The kernels: interpreted against the definition, compiled for a TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels import ops
from jaxmodels.analysis import chips
from jaxmodels.ops import kernels
from jaxmodels.ops.engine import method
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.ops.kernels import grid
from jaxmodels.testing import check_op, relative_error, tolerance
from jaxmodels.testing.examples import OPS
from tests.ops.test_matrix import GIVEN

# What a bonus or gates change is in the chunks: the kernels are the same.
NAMES = [
  name
  for name, record in OPS.items()
  if record.op in (ops.linear_attention, ops.delta_rule, ops.selective_scan)
]
each_op = pytest.mark.parametrize("name", NAMES)
one_of_each = pytest.mark.parametrize(
  "name", ["linear_attention_key_decay", "delta_rule", "selective_scan"]
)


def specs_of(name, arguments):
  """How the sequences of an op's arguments are sharded over the axis "s"."""
  whole = ("initial_state", *OPS[name].whole)
  return {
    n: PartitionSpec() if n in whole else PartitionSpec(None, "s")
    for n in arguments
  }


def check(name, **options):
  record = OPS[name]
  check_op(
    record.op,
    record.definition,
    record.draw_length,
    forms=("pallas",),
    whole=record.whole,
    **options,
  )


@one_of_each
def test_equals_the_definition(name):
  check(name, lengths=(44,), resets=GIVEN)


@pytest.mark.slow
@each_op
@pytest.mark.parametrize("reverse", [False, True])
def test_every_length(name, reverse):
  check(name, reverse=reverse)


@pytest.mark.slow
@each_op
def test_bfloat16(name):
  check(name, lengths=(44,), resets=GIVEN, dtypes=("bfloat16",))


def value_and_gradients(function, arguments):
  """Outputs and gradients of a function, of cotangents that are not alike."""
  outputs, pull_back = jax.vjp(function, *arguments)
  waves = jax.tree.map(
    lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
    outputs,
  )
  return outputs, pull_back(waves)


def equal(results, expected):
  errors = jax.tree.map(relative_error, results, expected)
  assert max(jax.tree.leaves(errors)) < tolerance("float32"), errors


# The scans alone, against their equation.


def decayed(summaries, state):
  def step(state, summary):
    through, update = summary
    return through[..., None] * state + update, state

  last, entering = jax.lax.scan(step, state, summaries)
  return entering, last


def delta(factors, state):
  def step(state, chunk):
    through, from_v, from_k, k = chunk
    u = from_v - from_k @ state
    return through[..., None] * state + k.mT @ u, (state, u)

  last, entering = jax.lax.scan(step, state, tuple(factors))
  return entering, last


@pytest.mark.parametrize(
  ("scan", "definition", "room", "block"),
  [
    pytest.param(
      *(kernels.scan_decayed, decayed, 8 << 20, (4, 16)), marks=pytest.mark.slow
    ),
    (kernels.scan_decayed, decayed, 200_000, (2, 16)),
    (kernels.scan_decayed, decayed, 60_000, (1, 8)),
    pytest.param(
      *(kernels.scan_delta, delta, 8 << 20, (4, 16)), marks=pytest.mark.slow
    ),
    (kernels.scan_delta, delta, 120_000, (1, 8)),
  ],
)
def test_heads_and_values_in_blocks(monkeypatch, scan, definition, room, block):
  monkeypatch.setattr(grid, "ROOM", room)
  taken, blocks = [], grid.blocks
  monkeypatch.setattr(
    grid, "blocks", lambda *args: taken.append(blocks(*args)) or taken[-1]
  )
  chunks, batch, heads, size, keys, values = 3, 2, 2, 4, 5, 12
  rng = np.random.default_rng(0)

  def draw(*shape):
    drawn = rng.standard_normal((batch, heads, *shape))
    return jnp.asarray(drawn / np.sqrt(keys), jnp.float32)

  def stack(*shape):
    return jnp.stack([draw(*shape) for _ in range(chunks)])

  if scan is kernels.scan_decayed:
    factors = stack(keys), stack(keys, values)
  else:
    factors = kernels.DeltaFactors(
      stack(keys), stack(size, values), stack(size, keys), stack(size, keys)
    )
  arguments = factors, draw(keys, values)
  equal(
    value_and_gradients(scan, arguments),
    value_and_gradients(definition, arguments),
  )
  assert taken[-1] == block  # Of the gradient.


def test_blocks_take_what_fits(monkeypatch):
  # In tiles of 8 x 128 float32, everything twice.
  state = jax.ShapeDtypeStruct((6, 16, 9), jnp.float32)
  for tiles, block in [(12, (6, 16)), (11, (3, 16)), (2, (1, 16)), (1, (1, 8))]:
    monkeypatch.setattr(grid, "ROOM", tiles * 2 * 8 * 128 * 4)
    assert grid.blocks([(grid.STATE, state)], 6, 16) == block


# Under transformations.


def drawn(name, length=20, dtype=jnp.float32):
  arguments = OPS[name].arguments(length)
  return OPS[name].op, {n: x.astype(dtype) for n, x in arguments.items()}


@pytest.mark.slow
@one_of_each
def test_vmap_remat_and_more_batch_axes(name):
  op, arguments = drawn(name)
  run = functools.partial(op, chunk_size=8)
  axes = {n: None if n in OPS[name].whole else 0 for n in arguments}
  stacked = {
    n: x if axes[n] is None else np.stack([x, 0.5 * x])
    for n, x in arguments.items()
  }

  def of(function):
    return jax.jit(
      lambda a: value_and_gradients(lambda a: function(**a), (a,))
    )(stacked)

  expected = of(functools.partial(run, method="chunked"))
  kernel = functools.partial(run, method="pallas")
  equal(of(kernel), expected)
  lifted = jax.vmap(lambda a: kernel(**a), (axes,))
  equal(of(lambda **a: lifted(a)), expected)
  equal(of(jax.checkpoint(kernel)), expected)


def sharded(name, check_vma):
  """Value and gradients over four devices, and on one."""
  op, arguments = drawn(name, 44)
  mesh = jax.make_mesh((4,), ("s",), axis_types=(AxisType.Auto,))
  along, whole = PartitionSpec(None, "s"), PartitionSpec()
  specs = specs_of(name, arguments)

  def run(arguments, **options):
    return op(**arguments, chunk_size=8, **options)

  over_four = jax.shard_map(
    functools.partial(run, method="pallas", axis_name="s"),
    mesh=mesh,
    in_specs=(specs,),
    out_specs=(along, whole),
    check_vma=check_vma,
  )
  results, expected = (
    jax.jit(functools.partial(value_and_gradients, f))((arguments,))
    for f in (over_four, functools.partial(run, method="chunked"))
  )
  equal(results, expected)


@pytest.mark.slow
@one_of_each
def test_sharded(name):
  sharded(name, check_vma=False)


def test_interpreter_refuses_types_of_shard_map():
  # On a TPU they are no hindrance: see below.
  with pytest.raises(ValueError, match="check_vma=False"):
    sharded("linear_attention", check_vma=True)


def test_auto_leaves_kernels_alone():
  for kind in ("linear_attention", "delta_rule"):
    forms = {field for field in method.AUTO[kind] if isinstance(field, str)}
    assert "pallas" not in forms
  narrow, wide = jnp.zeros((1, 32)), jnp.zeros((1, 128))
  with trace_for("tpu"):
    assert method.choose("linear_attention").value == "chunk_parallel"
    assert method.choose("delta_rule", narrow).value == "chunked"
    assert method.choose("linear_attention", wide).chunk == 128
    assert method.choose("linear_attention", narrow).chunk == 128
  assert method.choose("linear_attention", wide)[:3] == (
    "chunked",
    "chunk_parallel",
    64,
  )
  assert method.choose("delta_rule", narrow)[:3] == ("recurrent", "chunked", 32)


# What cannot run says so.


def test_other_platforms_are_named(monkeypatch):
  op, arguments = drawn("linear_attention")
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(ValueError, match=r"linear_attention: .* TPU.* got gpu"):
    op(**arguments, method="pallas")


def test_states_without_room_are_named():
  like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  wide = like((1, 1, 1, 100_000))
  with pytest.raises(ValueError, match=r"K = 100000 need .* more than 8 MiB"):
    jax.eval_shape(
      functools.partial(ops.linear_attention, method="pallas"),
      wide,
      wide,
      like((1, 1, 1, 8)),
    )


# Compiled for chips that are not there.

aot = [
  pytest.mark.tpu_aot,
  pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING),
]


def compiled(name, slice_, count):
  """Text of the compiled gradient of an op in its kernel's form.

  On one chip as it is, on several with the sequence over them.
  """
  op, arguments = drawn(name, 64)
  devices = chips.slice_devices(slice_)
  mesh = Mesh(np.array(devices[:count]), ("s",))
  along, whole = PartitionSpec(None, "s"), PartitionSpec()
  specs = specs_of(name, arguments)
  axis = "s" if count > 1 else None

  def run(arguments):
    return op(**arguments, method="pallas", chunk_size=8, axis_name=axis)

  if axis:
    run = jax.shard_map(
      run, mesh=mesh, in_specs=(specs,), out_specs=(along, whole)
    )

  def loss(arguments):
    y, state = run(arguments)
    return jnp.sum(y**2) + jnp.sum(state**2)

  shapes = {
    n: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, specs[n])
    )
    for n, x in arguments.items()
  }
  return jax.jit(jax.grad(loss)).lower(shapes).compile().as_text()


@pytest.mark.parametrize(
  ("slice_", "count"),
  [
    pytest.param("v5e:2x2", 1, marks=aot),
    pytest.param("v6e:2x2", 1, marks=aot),
    pytest.param("v5e:2x2", 4, marks=[*aot, pytest.mark.slow]),
  ],
)
@one_of_each
def test_compiles(name, slice_, count):
  text = compiled(name, slice_, count)
  kernel = name.split("_")[0].replace("linear", "decayed")
  calls = [x for x in text.splitlines() if '"tpu_custom_call"' in x]
  # One scan forth and one back.
  assert len(calls) == 2
  for way in ("forward", "backward"):
    assert any(f"{kernel}_{way}" in call for call in calls)


@pytest.mark.parametrize(
  ("slice_", "widths"),
  [
    pytest.param("v5e:2x2", (128, 128), marks=aot),
    pytest.param("v6e:2x2", (5, 7), marks=[*aot, pytest.mark.slow]),
    pytest.param("v6e:2x2", (273, 1024), marks=[*aot, pytest.mark.slow]),
  ],
)
def test_kernels_compile_for_any_width(slice_, widths):
  keys, values = widths
  devices = chips.slice_devices(slice_)
  chip = NamedSharding(Mesh(np.array(devices[:1]), ("s",)), PartitionSpec())

  def like(*shape):
    shape = (2, 1, 8, *shape)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=chip)

  size = 128
  factors = kernels.DeltaFactors(
    like(keys), like(size, values), like(size, keys), like(size, keys)
  )

  def loss(factors, state):
    (entering, u), last = kernels.scan_delta(factors, state[0])
    return jnp.sum(entering**2) + jnp.sum(u**2) + jnp.sum(last**2)

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
  lowered = gradient.lower(factors, like(keys, values))
  assert lowered.compile().as_text().count('"tpu_custom_call"') == 2
