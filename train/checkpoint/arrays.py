"""Reads and writes the arrays of a checkpoint: the only file that uses orbax.

It takes the v0 interface of orbax, since v1 is still experimental.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


def _alone() -> ocp.options.MultiprocessingOptions:
  """Returns options of a reader that does not wait for other processes."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


def read_arrays(folder: str) -> Any:
  """Reads a state as numpy arrays, in this process alone."""
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
  with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
    # Without this type, orbax looks for the devices that held the arrays.
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    return reader.restore(
      folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )


def restore_arrays(folder: str, wanted: Any) -> Any:
  """Reads a state onto devices; all processes call this.

  Args:
    folder: Where the state is.
    wanted: A pytree of `jax.ShapeDtypeStruct` with shardings.
  """
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    return reader.restore(folder, args=ocp.args.StandardRestore(wanted))


def open_writer(finished: Callable[[], None]) -> ocp.AsyncCheckpointer:
  """Returns a writer in the background, which `start_writing` uses.

  Args:
    finished: Called when a checkpoint is complete.
  """
  options = ocp.AsyncOptions(
    post_finalization_callback=finished,
    # Otherwise, where a directory cannot be made, threads of orbax keep the
    # process for five minutes.
    create_directories_asynchronously=False,
  )
  return ocp.AsyncCheckpointer(
    ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(async_options=options)
    ),
    async_options=options,
  )


def start_writing(
  writer: ocp.AsyncCheckpointer, folder: str, state: Any, meta: Any
) -> None:
  """Starts to write a state, and what belongs to it as JSON."""
  writer.save(
    folder,
    args=ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    ),
  )
