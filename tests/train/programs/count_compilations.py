"""Trains the tiny config, and prints what XLA compiled and what was cached."""

import json
import sys

import jax

import train
from tests.train import tiny

_EVENTS = "/jax/compilation_cache/"


def main():
  counts = {"compile_requests_use_cache": 0, "cache_hits": 0}

  def count(event, **_):
    name = event.removeprefix(_EVENTS)
    if name in counts:
      counts[name] += 1

  jax.monitoring.register_event_listener(count)
  train.run(tiny.get_config(), sys.argv[1])
  print(json.dumps(counts))


main()
