import numpy as np
import pytest

from tests.train import tiny
from train import checkpoint
from train.data import Batches
from train.data.prefetch import Prefetched
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
  following = Batches.__next__

  def damaged(self):
    if self.position == 24:
      raise OSError("the fourth batch is gone")
    return following(self)

  monkeypatch.setattr(Batches, "__next__", damaged)
  with pytest.raises(OSError, match="the fourth batch is gone"):
    run(tiny.get_config(), str(tmp_path))
  # Of step 3, which was under way when the fourth batch was read.
  assert read_metrics(tmp_path)[-1]["step"] == 3
  snapshot = checkpoint.load(str(tmp_path), "latest", pytest.fail)
  assert snapshot.step == 3 and snapshot.position == 24
