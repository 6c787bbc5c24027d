"""Threads for forced host devices on a CPU.

On CPU, XLA has one thread per core or per device, whichever is more. A device
that waits for the others in a collective occupies a thread, and so does a
program that waits for a device. With 8 devices on two cores all threads were
occupied, and XLA aborted the run when the collective timed out.
"""

import os
import re

_FORCED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def reserve_threads() -> None:
  """Makes XLA start with at least two threads per device.

  Call it before XLA starts. A value of `NPROC` in the environment is kept.
  """
  found = _FORCED.findall(os.environ.get("XLA_FLAGS", ""))
  devices = os.environ.get("JAX_NUM_CPU_DEVICES") or (found or ["1"])[-1]
  wanted = 2 * int(devices)
  if int(devices) > 1 and wanted > (os.cpu_count() or 1):
    os.environ.setdefault("NPROC", str(wanted))
