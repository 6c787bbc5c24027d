"""Runs saved before their classes moved can be read."""

import importlib
import json

import pytest

from configs import mqar, quickstart
from train.config import moved, saved, serialize

# As the classes of two configs were saved at first.
OLD = {
  "train.config.schema:": "train.config:",
  "train.data.tasks.mqar:": "train.data.mqar:",
  "train.losses.tokens:": "train.losses:",
}


@pytest.mark.parametrize("config", [quickstart, mqar])
def test_an_old_document_is_read_and_equals_the_new_one(config):
  wanted = config.get_config()
  new = serialize.to_json(wanted)
  text = json.dumps(new)
  for today, before in OLD.items():
    text = text.replace(today, before)
  old = json.loads(text)
  assert old != new
  assert saved.read_config(old) == wanted
  assert serialize.difference(old, new) == {}


@pytest.mark.parametrize("today", moved._MOVED.values())
def test_moved_modules_can_be_imported(today):
  importlib.import_module(today)
