"""Threads for devices that a CPU is told to have.

XLA on a CPU has a thread a core, or a device where those are more. A device
that waits for the others in a collective holds one, and so does a program that
waits for its turn on a device: with 8 devices on two cores all were held, and
XLA ended the run when nobody came.
"""

import os
import re

_FORCED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def reserve_threads() -> None:
  """Asks XLA for twice as many threads as devices, before it starts.

  What the environment says already stays.
  """
  found = _FORCED.findall(os.environ.get("XLA_FLAGS", ""))
  devices = os.environ.get("JAX_NUM_CPU_DEVICES") or (found or ["1"])[-1]
  wanted = 2 * int(devices)
  if int(devices) > 1 and wanted > (os.cpu_count() or 1):
    os.environ.setdefault("NPROC", str(wanted))
