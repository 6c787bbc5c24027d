import contextlib
import errno
import os
import resource
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train import checkpoint
from train.checkpoint import Checkpoints, Snapshot
from train.errors import RunError, UserError
from train.files.plain_path import plain_path


def save_all(workdir, metric, values, keep=2, after=0):
  best = "max" if metric == "accuracy" else "min"
  checkpoints = Checkpoints(
    str(workdir), keep=keep, best_metric=metric, best=best
  )
  for step, value in enumerate(values, start=after + 1):
    checkpoints.save(
      Snapshot(
        step=step,
        state={"x": np.full(3, step, np.float32)},
        position=8 * step,
        config={"best_metric": metric, "$best": best},
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
def test_the_latest_and_the_best_checkpoints_are_kept(tmp_path, metric, values):
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


def test_a_missing_run_has_no_checkpoint(tmp_path):
  assert checkpoint.latest(str(tmp_path), pytest.fail) is None


def test_a_saved_state_can_be_donated_at_once(tmp_path):
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


def test_each_device_writes_and_reads_its_shards(tmp_path):
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


NAN = float("nan")


@pytest.mark.parametrize(
  ("first", "second", "stay"),
  [
    ([1.0, 2.0], [3.0, 4.0], [1, 3, 4]),
    ([1.0, NAN, 3.0, 4.0], [], [1, 3, 4]),
    ([2.0, NAN], [NAN, 1.0, 3.0, NAN], [4, 5, 6]),
    ([NAN, NAN, None, NAN], [], [3, 4]),
  ],
)
def test_the_best_stays_when_a_run_resumes_or_a_validation_is_nan(
  tmp_path, first, second, stay
):
  save_all(tmp_path, "loss", first)
  save_all(tmp_path, "loss", second, after=len(first))
  assert checkpoint.steps(tmp_path) == stay
  finite = [x for x in (*first, *second) if x is not None and x == x]
  if finite:
    best = checkpoint.load(str(tmp_path), "best", pytest.fail)
    assert best.metrics["loss"] == min(finite)
  else:
    with pytest.raises(UserError, match="has validation metrics"):
      checkpoint.load(str(tmp_path), "best", pytest.fail)


def test_if_the_best_is_damaged_the_next_best_is_named(tmp_path):
  save_all(tmp_path, "loss", [1.0, 3.0, 2.0], keep=3)
  (tmp_path / "checkpoints/1/checksums.json").write_text("{}{")
  said = []
  assert checkpoint.load(str(tmp_path), "best", said.append).step == 3
  assert len(said) == 1 and "step 1, it is damaged" in said[0]


def test_a_half_removed_checkpoint_is_ignored(tmp_path, monkeypatch):
  def killed(path):
    os.remove(os.path.join(path, "meta", "metadata"))
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
      save_all(tmp_path, "loss", [3.0, 2.0, 1.0])
  assert checkpoint.steps(tmp_path) == [2, 3]
  said = []
  found = checkpoint.latest(str(tmp_path), pytest.fail)
  checkpoint.clear(str(tmp_path), found, said.append)
  assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "3"]
  assert len(said) == 1


@pytest.mark.parametrize(
  "name",
  [
    "run[1]",
    "a*b?c",
    "x/**/[!y]",
    "-dash and\nline {z} é #%20",
    os.fsdecode(b"\xff"),
  ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_directory_may_have_any_name(tmp_path, monkeypatch, name, relative):
  monkeypatch.chdir(tmp_path)
  workdir = name if relative else str(tmp_path / name)
  save_all(workdir, "loss", [1.0, 2.0])
  save_all(workdir, "loss", [3.0, 4.0], after=2)
  assert checkpoint.steps(workdir) == [1, 3, 4]
  assert checkpoint.latest(workdir, pytest.fail).step == 4
  assert checkpoint.load(workdir, "best", pytest.fail).step == 1
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = {"x": jax.ShapeDtypeStruct((3,), np.float32, sharding=place)}
  found = checkpoint.restore(workdir, 4, shapes)["x"]
  np.testing.assert_array_equal(found, 4.0)


def test_only_a_path_that_orbax_would_misread_gets_a_link(tmp_path):
  with plain_path("/runs/a b/c_1.2") as path:
    assert path == "/runs/a b/c_1.2"
  # Orbax takes these for buckets.
  for folder in ("/gs/run", "/s3", "//hf/run", str(tmp_path / "[x]")):
    with plain_path(folder) as path:
      assert path != folder and os.path.realpath(path) == os.path.realpath(
        folder
      )
    assert not os.path.lexists(path)


@pytest.mark.parametrize(
  "name", ["checkpoints", "checkpoints/3", "checkpoints/3.orbax-checkpoint-tmp"]
)
def test_nothing_is_written_through_a_link(tmp_path, name):
  workdir, outside = tmp_path / "run", tmp_path / "outside"
  outside.mkdir()
  save_all(workdir, "loss", [1.0, 2.0])
  link = workdir / name
  if link.exists():
    link.rename(workdir / "moved")
  link.symlink_to(outside)
  with pytest.raises((UserError, RunError)) as error:
    save_all(workdir, "loss", [3.0], after=2)
  assert "\n" not in str(error.value)
  assert not list(outside.iterdir()) and link.is_symlink()


def test_nothing_is_removed_or_set_aside_through_a_link(tmp_path):
  workdir, outside = tmp_path / "run", tmp_path / "outside"
  outside.mkdir()
  (outside / "theirs").write_text("stays")
  save_all(workdir, "loss", [1.0])
  for name in ("2", "3.orbax-checkpoint-tmp"):
    (workdir / "checkpoints" / name).symlink_to(outside)
  (workdir / "corrupt").symlink_to(outside)
  said = []
  found = checkpoint.latest(str(workdir), said.append)
  assert found.step == 1 and len(said) == 1
  with pytest.raises(UserError, match="corrupt is a link"):
    checkpoint.clear(str(workdir), found, said.append)
  (workdir / "corrupt").unlink()
  checkpoint.clear(str(workdir), found, said.append)
  assert os.listdir(workdir / "corrupt") == ["0-step-2"]
  assert os.listdir(workdir / "checkpoints") == ["1"]
  save_all(workdir, "loss", [2.0, 3.0, 4.0], after=1)
  assert os.listdir(outside) == ["theirs"]


def test_a_checkpoint_that_cannot_be_restored_is_skipped(tmp_path):
  workdir = str(tmp_path)
  save_all(workdir, "loss", [1.0, 2.0, 3.0], keep=4)
  checkpoints = Checkpoints(workdir, keep=4, best_metric="loss")
  config = {"best_metric": "loss"}
  other = {"y": np.zeros(2, np.float32)}
  checkpoints.save(Snapshot(4, other, 0, config, {}, False))
  checkpoints.close()
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = {"x": jax.ShapeDtypeStruct((3,), np.float32, sharding=place)}
  said = []
  found = checkpoint.latest(workdir, pytest.fail)
  assert found.step == 4
  found, state = checkpoint.restore_latest(workdir, found, shapes, said.append)
  assert found.step == 3
  np.testing.assert_array_equal(state["x"], 3.0)
  assert len(said) == 1 and "step 4" in said[0] and "\n" not in said[0]
  assert checkpoint.steps(workdir) == [1, 2, 3, 4]
  checkpoint.clear(workdir, found, said.append)
  assert checkpoint.steps(workdir) == [1, 2, 3]
  shapes = {"z": shapes["x"]}
  with pytest.raises(UserError, match="can be restored; if the code"):
    checkpoint.restore_latest(workdir, found, shapes, said.append)
  assert checkpoint.steps(workdir) == [1, 2, 3]


def test_a_failed_directory_leaves_no_thread(tmp_path, monkeypatch):
  make = os.mkdir

  def refuse(path, *args, **kwargs):
    if "orbax-checkpoint-tmp" in os.fspath(path):
      raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
    make(path, *args, **kwargs)

  before = set(threading.enumerate())
  with monkeypatch.context() as patch:
    patch.setattr(os, "mkdir", refuse)
    with pytest.raises(RunError, match=r"step 1 cannot .*Permission denied"):
      save_all(tmp_path, "loss", [1.0])
  until = time.monotonic() + 5
  while left := {
    x for x in threading.enumerate() if not x.daemon and x not in before
  }:
    assert time.monotonic() < until, left
    time.sleep(0.05)


@pytest.mark.parametrize(
  ("limit", "message"),
  [
    (resource.RLIMIT_FSIZE, "a file is larger than this process may write"),
    (resource.RLIMIT_NOFILE, "Too many open files"),
  ],
)
def test_a_system_limit_is_one_line(tmp_path, capfd, limit, message):
  save_all(tmp_path, "loss", [1.0])
  state = {f"x{i}": np.ones((40, 40), np.float32) for i in range(9)}
  checkpoints = Checkpoints(str(tmp_path), keep=2, best_metric="loss")
  before = resource.getrlimit(limit)
  # As every command does.
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  size = 500 if limit == resource.RLIMIT_FSIZE else 3
  resource.setrlimit(limit, (size, before[1]))
  try:
    with pytest.raises(RunError, match="step 2 cannot be written") as error:
      checkpoints.save(Snapshot(2, state, 0, {}, {}, False))
      checkpoints.close()
  finally:
    resource.setrlimit(limit, before)
    logging.set_verbosity(verbosity)
  with contextlib.suppress(RunError):
    checkpoints.close()
  assert message in str(error.value) and "\n" not in str(error.value)
  assert "Traceback" not in capfd.readouterr().err
  assert checkpoint.load(str(tmp_path), "latest", pytest.fail).step == 1
