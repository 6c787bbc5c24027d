"""Fixtures of the tests of data."""

import pytest

from train.data import (
  tokenize,
  tokenizer,
)


@pytest.fixture
def no_processes(monkeypatch):
  """Writes the shards in this process: starting another takes a second."""

  def write_all(plan, folder, processes):
    found = tokenizer.load(plan.tokenizer, plan.separator)
    for number in range(len(plan.shards)):
      tokenize.write_shard(plan, number, folder, found)

  monkeypatch.setattr(tokenize, "_write_all", write_all)
