"""Forced devices on a CPU get two threads each."""

import pytest

from train.devices import threads


@pytest.mark.parametrize(
  ("environment", "wanted"),
  [
    ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, "16"),
    ({"JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": "--xla_dump_to=x"}, "16"),
    ({"JAX_NUM_CPU_DEVICES": "2"}, None),  # There are as many cores.
    ({"JAX_NUM_CPU_DEVICES": "1"}, None),
    ({}, None),
    ({"JAX_NUM_CPU_DEVICES": "8", "NPROC": "9"}, "9"),
  ],
)
def test_there_are_two_threads_per_device(monkeypatch, environment, wanted):
  environment = dict(environment)
  monkeypatch.setattr(threads.os, "environ", environment)
  monkeypatch.setattr(threads.os, "cpu_count", lambda: 4)
  threads.reserve_threads()
  assert environment.get("NPROC") == wanted
