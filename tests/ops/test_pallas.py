"""The kernels: interpreted against the definition, compiled for a TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels import ops
from jaxmodels.analysis import chips
from jaxmodels.ops.engine import auto
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.ops.kernels import chunked
from jaxmodels.ops.kernels.chunk_block import Leaf
from jaxmodels.testing import check_op, relative_error, tolerance
from jaxmodels.testing.examples import OPS
from tests.ops.test_matrix import GIVEN

WITH_KERNELS = (
  ops.linear_attention,
  ops.normalized_linear_attention,
  ops.delta_rule,
  ops.dplr_recurrence,
  ops.selective_scan,
)
WITHOUT = ("normalized_linear_attention_bonus",)
NAMES = [
  name
  for name, record in OPS.items()
  if record.op in WITH_KERNELS and name not in WITHOUT
]
each_op = pytest.mark.parametrize("name", NAMES)
one_of_each = pytest.mark.parametrize(
  "name",
  [
    "linear_attention_key_decay",
    "normalized_linear_attention",
    "delta_rule",
    "selective_scan",
  ],
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
  functions = record.op, record.definition
  if record.options:  # Else as they are: `check_op` knows a definition again.
    functions = (functools.partial(f, **record.options) for f in functions)
  check_op(
    *functions,
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
@pytest.mark.parametrize(
  "lengths",
  [
    pytest.param((7, 44), id="two"),
    pytest.param((1, 8, 9, 29, 63), id="others", marks=pytest.mark.exhaustive),
  ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_length(name, reverse, lengths):
  check(name, reverse=reverse, lengths=lengths)


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


# Under transformations.


def drawn(name, length=20, dtype=jnp.float32):
  arguments = OPS[name].arguments(length)
  op = functools.partial(OPS[name].op, **OPS[name].options)
  return op, jax.tree.map(lambda x: x.astype(dtype), arguments)


@pytest.mark.slow
@one_of_each
def test_vmap_remat_and_more_batch_axes(name):
  op, arguments = drawn(name)
  run = functools.partial(op, chunk_size=8)
  axes = {n: None if n in OPS[name].whole else 0 for n in arguments}
  stacked = {
    n: x
    if axes[n] is None
    else jax.tree.map(lambda x: np.stack([x, 0.5 * x]), x)
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


@pytest.mark.parametrize("name", ["linear_attention", "delta_rule"])
def test_auto_takes_kernels_where_they_fit(monkeypatch, name):
  op, arguments = drawn(name)
  q, k = (jnp.zeros((2, 20, 1, 4096)) for _ in "qk")
  check_auto(monkeypatch, op, arguments, {"q": q, "k": k})


def check_auto(monkeypatch, op, arguments, too_large):
  """Where "auto" takes a kernel; not for the arguments `too_large`."""
  mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))

  def takes(**others):
    jaxpr = jax.make_jaxpr(lambda: op(**arguments | others))()
    return "pallas_call" in str(jaxpr)

  assert not takes()  # On a CPU.
  with trace_for("tpu"):
    assert not takes()  # On eight devices without a mesh.
    with jax.set_mesh(mesh):
      assert takes()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert takes()
    assert not takes(method="chunked")
    assert not takes(**too_large, initial_state=None)
  with trace_for("tpu", kernels=False):
    assert not takes()


def test_the_rest_of_auto():
  narrow, wide = jnp.zeros((1, 32)), jnp.zeros((1, 128))
  with trace_for("tpu"):
    assert auto.choose("linear_attention").value == "chunk_parallel"
    assert auto.choose("delta_rule", narrow).value == "chunked"
    assert auto.choose("linear_attention", wide).chunk == 128
    assert auto.choose("linear_attention", narrow).chunk == 128
  assert auto.choose("linear_attention", wide)[:3] == (
    "chunked",
    "chunk_parallel",
    64,
  )
  assert auto.choose("delta_rule", narrow)[:3] == ("recurrent", "chunked", 32)


# Heads, and blocks of them.


def random(**shapes):
  rng = np.random.default_rng(0)
  arguments = {
    n: jnp.asarray(rng.standard_normal(s) / np.sqrt(s[-1]), jnp.float32)
    for n, s in shapes.items()
  }
  return arguments | {"beta": jax.nn.sigmoid(arguments["beta"])}


@pytest.mark.parametrize(
  ("shared", "heads", "block"),
  [
    (1, 3, 3),
    pytest.param(2, 4, 4, marks=pytest.mark.slow),
    pytest.param(16, 16, 8, marks=pytest.mark.slow),
    pytest.param(16, 32, 16, marks=pytest.mark.slow),
  ],
)
def test_heads_in_blocks(monkeypatch, shared, heads, block):
  batch, length, keys, values = 2, 12, 5, 130  # In two parts of 128 lanes.
  arguments = random(
    q=(batch, length, shared, keys),
    k=(batch, length, shared, keys),
    v=(batch, length, heads, values),
    beta=(batch, length, heads),
  )
  taken, of = [], chunked._heads_per_block
  monkeypatch.setattr(
    chunked, "_heads_per_block", lambda *x: taken.append(of(*x)) or taken[-1]
  )
  if block < heads:
    q, v = (Leaf((8, n), block) for n in (keys, values))
    q = q._replace(heads=block * shared // heads)
    leaves, state = [q, q, v, Leaf((8,), block)], (keys, values)
    monkeypatch.setattr(chunked, "ROOM", chunked._bytes(leaves, block, state))
  run = functools.partial(ops.delta_rule, chunk_size=8)

  def of_form(form):
    return value_and_gradients(lambda a: run(**a, method=form), (arguments,))

  equal(of_form("pallas"), of_form("chunked"))
  assert taken[-1] == block


@pytest.mark.parametrize(
  ("shared", "batch"),
  [
    (4, 2),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in ((2, 2), (4, 1))),
  ],
)
def test_devices_share_rows_and_heads(shared, batch):
  arguments = random(
    q=(batch, 8, shared, 3),
    k=(batch, 8, shared, 3),
    v=(batch, 8, 4, 3),
    beta=(batch, 8, 4),
  )

  def of_form(form):
    return jax.jit(
      functools.partial(
        value_and_gradients,
        lambda a: ops.delta_rule(**a, method=form, chunk_size=8),
      )
    )((arguments,))

  expected = of_form("chunked")
  mesh = jax.make_mesh((2, 4), ("data", "other"), (AxisType.Auto,) * 2)
  with jax.set_mesh(mesh):
    found = of_form("pallas")
  equal(found, expected)


# What cannot run says so.


def test_other_platforms_are_named(monkeypatch):
  op, arguments = drawn("linear_attention")
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(ValueError, match=r"linear_attention: .* TPU.* got gpu"):
    op(**arguments, method="pallas")


def test_states_without_room_are_named():
  like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  wide = like((1, 1, 1, 100_000))
  with pytest.raises(ValueError, match=r"1 heads of 100000 x 8 need more than"):
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
  others = ("initial_state", *OPS[name].whole)
  first = next(x for n, x in arguments.items() if n not in others)
  arguments["segment_ids"] = np.zeros(first.shape[:2], np.int32)
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
    return sum(jnp.sum(x**2) for x in jax.tree.leaves((y, state)))

  def placed(x, spec):
    where = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  shapes = {
    n: jax.tree.map(functools.partial(placed, spec=specs[n]), x)
    for n, x in arguments.items()
  }
  gradient = jax.grad(loss, allow_int=True)
  return jax.jit(gradient).lower(shapes).compile().as_text()


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
  kernel = "selective" if name == "selective_scan" else "chunk"
  calls = [x for x in text.splitlines() if '"tpu_custom_call"' in x]
  # One scan forth and one back.
  assert len(calls) == 2
  for way in ("forward", "backward"):
    assert any(f"{kernel}_{way}" in call for call in calls)
