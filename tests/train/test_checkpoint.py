import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train import checkpoint
from train.checkpoint import Checkpoints, Snapshot
from train.errors import UserError


def save_all(workdir, metric, values, keep=2):
  checkpoints = Checkpoints(str(workdir), keep=keep, best_metric=metric)
  for step, value in enumerate(values, start=1):
    checkpoints.save(
      Snapshot(
        step=step,
        state={"x": np.full(3, step, np.float32)},
        position=8 * step,
        config={"best_metric": metric},
        metrics={} if value is None else {metric: value},
        evaluated=value is not None,
      )
    )
  checkpoints.close()


@pytest.mark.parametrize(
  ("metric", "values"),
  [
    ("loss", [3.0, 1.0, 2.0, None, 4.0]),
    ("accuracy", [0.2, 0.9, 0.5, None, 0.1]),
  ],
)
def test_the_latest_and_the_best_stay(tmp_path, metric, values):
  save_all(tmp_path, metric, values)
  assert checkpoint.steps(tmp_path) == [2, 4, 5]
  best = checkpoint.load(str(tmp_path), "best", pytest.fail)
  assert best.step == 2 and best.position == 16
  np.testing.assert_array_equal(best.state["x"], 2.0)
  assert checkpoint.load(str(tmp_path), "latest", pytest.fail).step == 5


def test_without_validation_there_is_no_best(tmp_path):
  save_all(tmp_path, "loss", [None])
  with pytest.raises(UserError, match="has validation metrics"):
    checkpoint.load(str(tmp_path), "best", pytest.fail)


def test_dtypes_and_scalars_come_back_as_they_were(tmp_path):
  state = {
    "low": jnp.asarray([1.5, -2.0], jnp.bfloat16),
    "count": np.asarray(7, np.int32),
    "flag": np.asarray(True),
    "empty": (),
    "pair": (np.arange(2.0, dtype=np.float32), np.ones((2, 1), np.uint32)),
  }
  checkpoints = Checkpoints(str(tmp_path), keep=1, best_metric="loss")
  checkpoints.save(Snapshot(3, state, 0, {}, {}, False))
  checkpoints.close()
  found = checkpoint.load(str(tmp_path), "3", pytest.fail).state
  for name in ("low", "count", "flag"):
    assert found[name].dtype == state[name].dtype
    np.testing.assert_array_equal(found[name], state[name])
  np.testing.assert_array_equal(found["pair"]["0"], [0, 1])
  assert found["pair"]["1"].shape == (2, 1)


def test_a_run_that_never_was_gives_none(tmp_path):
  assert checkpoint.latest(str(tmp_path), pytest.fail) is None


def test_what_is_saved_may_be_donated_at_once(tmp_path):
  add = jax.jit(lambda x: x + 1, donate_argnums=0)
  state = jax.jit(lambda: jnp.zeros(1 << 23))()
  expected = np.array(state)
  checkpoints = Checkpoints(str(tmp_path), keep=1, best_metric="loss")
  checkpoints.save(Snapshot(1, {"x": state}, 0, {}, {}, False))
  for _ in range(5):
    state = add(state)
  jax.block_until_ready(state)
  checkpoints.close()
  found = checkpoint.load(str(tmp_path), "1", pytest.fail).state
  np.testing.assert_array_equal(found["x"], expected)


def test_each_device_writes_and_reads_its_pieces(tmp_path):
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  value = np.arange(64.0, dtype=np.float32).reshape(8, 8)
  state = {"x": jax.device_put(value, NamedSharding(mesh, P("a", "b")))}
  checkpoints = Checkpoints(str(tmp_path), keep=1, best_metric="loss")
  checkpoints.save(Snapshot(1, state, 0, {}, {}, False))
  checkpoints.close()
  other = NamedSharding(mesh, P("b"))
  wanted = {"x": jax.ShapeDtypeStruct((8, 8), np.float32, sharding=other)}
  found = checkpoint.restore(str(tmp_path), 1, wanted)["x"]
  assert found.sharding.is_equivalent_to(other, 2)
  np.testing.assert_array_equal(found, value)
