"""Errors of library threads that are raised elsewhere are not printed."""

import asyncio
import sys
import types

import pytest
import tensorstore

from train import quiet


@pytest.fixture
def printed(monkeypatch):
  """What would be printed, with the hooks of `quiet_threads`."""
  found = []
  monkeypatch.setattr(sys, "unraisablehook", found.append)
  monkeypatch.setattr(sys, "excepthook", sys.excepthook)
  quiet.quiet_threads.__wrapped__()
  return found


def test_a_write_that_ends_after_its_loop_is_silent(printed):
  loop = asyncio.new_event_loop()
  promise, future = tensorstore.Promise.new()
  future.add_done_callback(lambda _: loop.call_soon_threadsafe(print))
  loop.close()
  promise.set_result(1)
  assert future.done() and not printed


def test_other_errors_that_cannot_be_raised_are_printed(printed):
  promise, future = tensorstore.Promise.new()
  future.add_done_callback(lambda _: 1 / 0)
  promise.set_result(1)
  error = types.SimpleNamespace(
    object=print, exc_value=RuntimeError("Event loop is closed")
  )
  sys.unraisablehook(error)
  assert [type(x.exc_value) for x in printed] == [
    ZeroDivisionError,
    RuntimeError,
  ]
