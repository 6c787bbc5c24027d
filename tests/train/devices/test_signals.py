"""Signals that arrive while the main thread is inside a library."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from train.devices.signals import stop_signals

ROOT = pathlib.Path(__file__).parents[3]
# A minute in C, without the lock of the interpreter, as a compilation is.
BUSY = """
import hashlib
from train.devices.signals import stop_signals
with stop_signals():
  print("busy", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""


@pytest.mark.parametrize(
  "numbers", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")]
)
def test_a_second_signal_ends_the_process_at_once_in_one_line(numbers):
  process = subprocess.Popen(
    [sys.executable, "-c", BUSY],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout.readline() == "busy\n"
    first, second = (getattr(signal, name) for name in numbers)
    process.send_signal(first)
    # Said while the main thread can say nothing.
    assert process.stdout.readline().startswith(f"{numbers[0]}: saving")
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(second)
    _, errors = process.communicate(timeout=60)
  finally:
    process.kill()
  assert time.monotonic() - begun < 20
  assert process.returncode == 128 + second
  assert errors == f"error: a second {numbers[1]}: ended without saving\n"


def test_a_first_signal_is_a_request_and_handlers_are_restored():
  handlers = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
  threads = threading.active_count()
  with stop_signals() as stop:
    assert not stop.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.poll() and stop.signal == signal.SIGTERM
  assert threading.active_count() == threads
  assert handlers == [
    signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)
  ]
  descriptor = signal.set_wakeup_fd(-1)
  assert descriptor == -1


def test_in_an_interpreter_a_second_signal_interrupts(monkeypatch):
  monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
  # A shell starts background processes with this signal ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with stop_signals() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.poll()
      with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
  finally:
    signal.signal(signal.SIGINT, before)
