import threading
import time

import numpy as np
import pytest

from tests.train import tiny
from train import checkpoint
from train.data import Batches
from train.data.prefetch import AHEAD, Prefetched, ReadAhead
from train.loop import run
from train.metrics import read_metrics


def stream(position=0):
  dataset = tiny.Data(size=13).open("train")
  return Batches(dataset, 4, seed=3, position=position)


@pytest.mark.parametrize("every", [1, 2, 100])
def test_batches_and_their_positions_are_those_of_the_stream(every):
  plain, sent = stream(), []
  batches = Prefetched(stream(), lambda batch: sent.append(batch) or len(sent))
  for number in range(1, 10):
    if number % every == 0:
      batches.prefetch()
      batches.prefetch()
      assert len(sent) == number
    position, expected = plain.position, next(plain)
    # Sent or not, it is the first batch that is not handed out.
    assert batches.position == position
    batch = batches.take()
    assert batch.position == position and batches.position == plain.position
    assert batch.device == len(sent) == number and sent[-1] is batch.host
    for name, rows in expected.items():
      np.testing.assert_array_equal(batch.host[name], rows)


def test_an_unreadable_batch_does_not_stop_earlier_steps(tmp_path, monkeypatch):
  data = tiny.Data().open("train")
  (damaged, *_) = Batches(
    data, 8, seed=tiny.get_config().seed, position=24
  ).advance()
  reading = tiny.Rows.__getitem__

  def read(self, index):
    if index == damaged and threading.current_thread().name == "read batch":
      raise OSError("the fourth batch is gone")
    return reading(self, index)

  monkeypatch.setattr(tiny.Rows, "__getitem__", read)
  with pytest.raises(OSError, match="the fourth batch is gone"):
    run(tiny.get_config(), str(tmp_path))
  # Of step 3, which was under way when the fourth batch was read.
  assert read_metrics(tmp_path)[-1]["step"] == 3
  snapshot = checkpoint.load(str(tmp_path), "latest", pytest.fail)
  assert snapshot.step == 3 and snapshot.position == 24


class Slow:
  """Example i is the number i, read in some milliseconds, or an error."""

  vocab_size = 10

  def __init__(self, size=40, seconds=0.0, errors=()):
    self.size, self.seconds, self.errors = size, seconds, errors
    self.reading, self.most, self.started = 0, 0, []
    self.lock = threading.Lock()

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    with self.lock:
      self.started.append(index)
      self.reading += 1
      self.most = max(self.most, self.reading)
    # The later ones of a batch come first.
    time.sleep(self.seconds * (1 + (-index) % 3) / 2)
    with self.lock:
      self.reading -= 1
    if index in self.errors:
      raise OSError(f"example {index} is gone")
    return {"inputs": np.full(2, index), "weights": np.ones(2, np.float32)}


@pytest.mark.parametrize("threads", [0, 1, 3, 16])
@pytest.mark.parametrize("position", [0, 6, 35])
def test_threads_do_not_change_the_stream(threads, position):
  expected = Batches(Slow(), 5, seed=2, position=position)
  given = Batches(Slow(seconds=0.002), 5, seed=2, position=position)
  with ReadAhead(given, threads) as reader:
    for _ in range(20):
      assert reader.position == expected.position
      np.testing.assert_array_equal(
        next(reader)["inputs"], next(expected)["inputs"]
      )
  assert reader.position == position + 100


@pytest.mark.parametrize("threads", [0, 4])
def test_one_pass_ends_in_threads_too(threads):
  given = Batches(Slow(7), 4, seed=0, shuffle=False, one_pass=True)
  with ReadAhead(given, threads) as reader:
    batches = list(reader)
  assert [list(batch["weights"][:, 0]) for batch in batches] == [
    [1, 1, 1, 1],
    [1, 1, 1, 0],
  ]
  assert reader.position == 7


def test_slow_reads_are_done_at_the_same_time():
  slow = Slow(size=64, seconds=0.02)
  begun = time.monotonic()
  with ReadAhead(Batches(slow, 16, seed=0), 8) as reader:
    for _ in range(4):
      next(reader)
  # One after another they take 64 times 20 ms.
  assert time.monotonic() - begun < 0.64
  assert slow.most == 8


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_an_error_comes_where_its_batch_would(threads):
  slow = Slow(errors=(13, 22))
  batches = Batches(slow, 5, seed=0, shuffle=False)
  with ReadAhead(batches, threads) as reader:
    assert [next(reader)["inputs"][0, 0] for _ in range(2)] == [0, 5]
    with pytest.raises(OSError, match="example 13 is gone"):
      next(reader)
    assert reader.position == 10


def test_no_more_is_read_ahead_than_said_and_closing_ends_the_threads():
  slow = Slow(size=1000)
  reader = ReadAhead(Batches(slow, 4, seed=0), 3)
  next(reader)
  until = time.monotonic() + 5
  while len(slow.started) < 4 * (1 + AHEAD) and time.monotonic() < until:
    time.sleep(0.001)
  time.sleep(0.02)
  assert len(slow.started) == 4 * (1 + AHEAD)
  workers = reader._workers
  assert len(workers) == 2  # Four rows are two and two.
  reader.close()
  for worker in workers:
    worker.join(5)
    assert not worker.is_alive()
  with pytest.raises(ValueError, match="closed"):
    next(reader)


def test_closing_does_not_wait_for_a_read_that_hangs():
  hang = threading.Event()

  class Hanging(Slow):
    def __getitem__(self, index):
      hang.wait(20)
      return super().__getitem__(index)

  reader = ReadAhead(Batches(Hanging(), 4, seed=0), 2)
  reader._fill()
  begun = time.monotonic()
  reader.close()
  assert time.monotonic() - begun < 1
  hang.set()


def test_data_say_how_many_threads_may_read():
  slow = Slow(seconds=0.001)
  slow.threads = 1
  with ReadAhead(Batches(slow, 4, seed=0)) as reader:
    for _ in range(5):
      next(reader)
  assert slow.most == 1
