"""The walk in a kernel: interpreted on a CPU, and compiled for an H100."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import tpu
from jaxmodels import ops
from jaxmodels.analysis import chips, flops
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.ops.kernels import fits_walk, gpu_walk, walk_edits
from jaxmodels.testing import check_op, relative_error, tolerance
from jaxmodels.testing.examples import OPS, Sizes
from tests.ops.test_matrix import GIVEN

on_hopper = functools.partial(trace_for, "gpu", capability=9)
compiled_for_gpus = [
  pytest.mark.gpu_aot,
  pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU),
]


@pytest.fixture
def interpreted(monkeypatch):
  """The kernel runs here too, in the interpreter, which looks for races."""
  gpu = mosaic_gpu
  if not hasattr(gpu, "InterpretGPUParams"):  # Before JAX 0.12.
    from jax._src.pallas.mosaic_gpu.interpret import params as gpu
  monkeypatch.setattr(gpu_walk, "_run", gpu_walk._in_kernel)
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  with gpu.force_gpu_interpret_mode(gpu.InterpretGPUParams(detect_races=True)):
    yield


def drawn(count, size, keys, values, adds, batch=1, heads=2):
  """The arguments of a walk whose states neither grow nor vanish."""
  rng = np.random.default_rng(size + keys)

  def normal(*shape):
    return rng.standard_normal(shape)

  lead = count, batch, heads
  return (
    rng.uniform(0.5, 1, (*lead, keys)),
    normal(*lead, size, keys) / np.sqrt(size),
    normal(*lead, size, keys) / np.sqrt(8 * keys),
    normal(*lead, size, values),
    normal(*lead, keys, values) if adds else None,
    normal(batch, heads, keys, values),
  )


def in_order(d, a, g, b, w, state):
  """The equations of `gpu_walk`, one chunk after another."""
  before, every_u = [], []
  for i in range(len(d)):
    before.append(state)
    u = b[i] + jnp.einsum("bhck,bhkv->bhcv", g[i], state)
    state = d[i][..., None] * state + jnp.einsum("bhck,bhcv->bhkv", a[i], u)
    state = state if w is None else state + w[i]
    every_u.append(u)
  return jnp.stack(before), jnp.stack(every_u), state


def both(walk):
  """Values and gradients of a walk, of cotangents that are not alike."""

  def run(*arguments):
    values, pull_back = jax.vjp(walk, *arguments)
    waves = jax.tree.map(
      lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
      values,
    )
    return values, pull_back(waves)

  return jax.jit(run)


def exact(arguments):
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, both(in_order)(*arguments))


def narrow(arguments):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arguments)


def assert_right(found, expected):
  errors = jax.tree.map(relative_error, found, expected)
  assert max(jax.tree.leaves(errors)) < tolerance("float32"), errors


@pytest.mark.parametrize(
  ("count", "size", "keys", "values", "adds"),
  [
    (2, 64, 64, 32, False),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        (1, 64, 64, 64, True),
        (5, 64, 128, 64, True),
        (4, 128, 64, 96, False),
        (3, 128, 128, 128, True),
        (3, 64, 64, 64, False),
      )
    ),
  ],
)
def test_the_kernel_walks_as_its_equations(
  interpreted, count, size, keys, values, adds
):
  arguments = drawn(count, size, keys, values, adds)
  assert_right(both(walk_edits)(*narrow(arguments)), exact(arguments))


@pytest.mark.slow
def test_errors_grow_slowly_with_the_length(interpreted):
  arguments = drawn(32, 64, 64, 32, False, heads=1)
  assert_right(both(walk_edits)(*narrow(arguments)), exact(arguments))


@pytest.mark.slow
def test_vmap(interpreted):
  arguments = drawn(2, 64, 64, 32, True, batch=2)
  expected = exact(arguments)
  axes = (1, 1, 1, 1, 1, 0)  # The rows of the batch one by one.
  rows = tuple(
    np.expand_dims(x, axis + 1) for x, axis in zip(arguments, axes, strict=True)
  )
  walk = jax.vmap(walk_edits, axes, out_axes=(1, 1, 0))
  found = jax.tree.map(
    lambda x, like: x.reshape(like.shape),
    both(walk)(*narrow(rows)),
    expected,
  )
  assert_right(found, expected)


@pytest.mark.slow
def test_second_derivatives(interpreted):
  arguments = drawn(2, 64, 64, 32, False, heads=1)

  def slope(walk):
    def loss(d, a, g, b, state):
      return sum(jnp.sum(x**2) for x in walk(d, a, g, b, None, state))

    def length(*given):
      return sum(jnp.sum(x**2) for x in jax.grad(loss, range(5))(*given))

    return jax.jit(jax.grad(length, range(5)))

  d, a, g, b, _, state = arguments
  with jax.enable_x64(True):
    expected = jax.tree.map(np.asarray, slope(in_order)(d, a, g, b, state))
  assert_right(slope(walk_edits)(*narrow((d, a, g, b, state))), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    "delta_rule",
    "delta_rule_key_decay",
    "delta_rule_gates",
    "dplr_recurrence",
    "householder_product",
  ],
)
def test_ops_that_walk_in_the_kernel(interpreted, name):
  """Two chunks of 64 and a rest, with resets, against the definition."""
  record = OPS[name]

  def draw(rng, length):
    sizes = Sizes(batch=2, length=length, heads=1, width=64, values=32)
    return record.draw(rng, sizes)

  with on_hopper():
    check_op(
      functools.partial(record.op, **record.options),
      functools.partial(record.definition, **record.options),
      draw,
      forms=("chunk_parallel",),
      lengths=(150,),
      resets=GIVEN,
      chunk_size=64,
    )


def traced(name="delta_rule", **options):
  """The program of an op, as text."""
  record, rng = OPS[name], np.random.default_rng(0)
  arguments = narrow(record.draw(rng, Sizes(length=128, width=64, values=32)))
  options = {"method": "chunk_parallel", "chunk_size": 64, **options}
  op = functools.partial(record.op, **record.options, **options)
  return str(jax.make_jaxpr(lambda: op(**arguments))())


def fits(count=2, size=64, keys=64, values=32, dtype=jnp.float32):
  a, b, state = (
    jax.ShapeDtypeStruct(shape, dtype)
    for shape in (
      (count, 1, 2, size, keys),
      (count, 1, 2, size, values),
      (1, 2, keys, values),
    )
  )
  return fits_walk(a, b, state)


def test_where_the_kernel_fits(monkeypatch):
  assert not fits()
  with on_hopper():
    assert not fits()  # On eight devices without a mesh.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert fits()
    assert fits(size=128, keys=128, values=96)
    assert not fits(size=32)
    assert not fits(keys=96)
    assert not fits(keys=256)
    assert not fits(values=48)
    assert not fits(dtype=jnp.float64)
    with jax.default_matmul_precision("highest"):
      assert not fits()
  for capability in (0, 8, 10):
    with trace_for("gpu", capability=capability):
      assert not fits()


def test_chunk_parallel_takes_the_kernel(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  with on_hopper():
    assert "walk_edits" in traced()
    assert "walk_edits" not in traced(method="associative")
  with trace_for("gpu"):
    assert "walk_edits" not in traced()


def test_flops_are_those_of_the_equations():
  shapes = narrow(drawn(3, 64, 128, 32, False))
  counted = flops.count(walk_edits, *shapes)
  # Two products per chunk, of two heads.
  assert counted.products == 3 * 2 * 2 * (2 * 64 * 128 * 32)
  assert not counted.unknown


# Compiled.


def placed(shapes, mesh, spec):
  sharding = NamedSharding(mesh, spec)
  return {
    name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    for name, shape in shapes.items()
  }


def exchanges(text):
  """The kinds of collectives of a program, and how many there are of each."""
  kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
  return collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", text))


class TestForAnH100:
  pytestmark = compiled_for_gpus

  @pytest.mark.parametrize(
    ("size", "keys"),
    [
      (128, 128),
      *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in ((64, 64), (64, 128), (128, 64))
      ),
    ],
  )
  def test_the_kernel_has_wgmma_and_spills_nothing(
    self, monkeypatch, capfd, size, keys
  ):
    shapes = jax.eval_shape(lambda: narrow(drawn(8, size, keys, 64, True)))
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTX", "1")
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    where = tpu.place(shapes, tpu.chip("h100:1"))
    jax.jit(walk_edits).lower(*where).compile()
    text = "".join(capfd.readouterr())
    assert "wgmma.mma_async" in text
    assert set(re.findall(r"(\d+) bytes spill", text)) == {"0"}

  @pytest.mark.slow
  @pytest.mark.parametrize("is_cut", [False, True])
  def test_devices_share_it(self, is_cut):
    """They exchange what they do without it: for a batch alone, nothing."""
    devices = np.array(chips.slice_devices("h100:4")).reshape(2, 2)
    mesh = Mesh(devices, ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    few, wide = (4, 256, 2, 64), (4, 256, 4, 64)
    shapes = {"q": few, "k": few, "v": wide, "beta": wide[:3]}
    spec, along = PartitionSpec(("x", "y")), PartitionSpec(None, "x")
    run = functools.partial(
      ops.delta_rule, method="chunk_parallel", chunk_size=64
    )
    call = lambda given: run(**given)  # noqa: E731
    if is_cut:
      spec = PartitionSpec("y", "x")
      call = jax.shard_map(
        lambda given: run(**given, axis_name="x"),
        mesh=mesh,
        in_specs=(along,),
        out_specs=(along, PartitionSpec()),
        axis_names={"x"},
      )

    def compiled(capability):
      def loss(given):  # A new function: JAX remembers what it has traced.
        return sum(map(jnp.sum, call(given)))

      with trace_for("gpu", capability=capability), jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(placed(shapes, mesh, spec))
      return lowered.compile().as_text()

    without, text = compiled(0), compiled(9)
    calls = re.compile(r'custom_call_target="mosaic_gpu')
    assert not calls.findall(without)
    assert len(calls.findall(text)) == 2  # Forwards and backwards.
    assert exchanges(text) == exchanges(without)
    assert is_cut or not exchanges(text)
