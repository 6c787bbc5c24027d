"""Stores the examples of synthetic tasks as tfds data sets.

A task is a frozen dataclass that generates its examples: see `Task`. They are
generated once, without TensorFlow, and stored in a folder whose name contains
every setting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from train.data.dataset import SPLITS
from train.data.guard import known_features
from train.streams import log


class Task(Protocol):
  """What the builder needs of a task; `SequenceTask` is the usual base.

  Attributes:
    name: The name of the folder of its examples.
    version: Increase it when the same settings give different examples.
  """

  name: ClassVar[str]
  version: ClassVar[str]

  @property
  def data_dir(self) -> str:
    """The folder of the examples of all tasks."""

  def folder(self) -> str:
    """Returns a name made from every setting that affects the examples."""

  def generate(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples of a split: arrays by name.

    The first axis may have another length in another split.
    """


@dataclasses.dataclass(eq=False)
class _Config(tfds.core.BuilderConfig):
  """A tfds config: a name and its task."""

  task: Any = None


class TaskBuilder(tfds.core.GeneratorBasedBuilder):
  """Generates the examples of a task."""

  name = "task"
  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    task = self.builder_config.task
    first = next(iter(task.generate("train")))
    features = {
      name: tfds.features.Tensor(
        shape=(None, *array.shape[1:]) if array.ndim else (), dtype=array.dtype
      )
      for name, array in first.items()
    }
    # Built here, because `dataset_info_from_configs` of tfds reads description
    # files beside the module.
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(task).__doc__,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=getattr(task, "in_order", False),
    )

  def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split: str) -> Iterator:
    return enumerate(self.builder_config.task.generate(split))


@functools.cache
def _builder(name: str, version: str) -> Any:
  """Returns a task's builder class: in tfds a class holds name and version."""
  fields = {"name": name, "VERSION": tfds.core.Version(version)}
  with tfds.core.registered.skip_registration():
    return type("TaskBuilder", (TaskBuilder,), fields)


def read(task: Task, split: str) -> Sequence[dict[str, np.ndarray]]:
  """Returns the stored examples; generates them first if they are missing.

  Args:
    task: The task.
    split: "train" or "validation".

  Returns:
    Sequence of examples, arrays by name.
  """
  name = task.folder()
  root = pathlib.Path(task.data_dir).expanduser()
  folder = root / task.name / name / task.version
  if not folder.exists():
    log(f"generating the examples of {task.name} in {folder}")
    _make(_Config(name=name, description="", task=task), root, folder)
  with known_features():
    return tfds.builder_from_directory(folder).as_data_source(split=split)


def _make(config: _Config, root: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the examples of all splits.

  tfds writes to a temporary folder and renames it when it is complete, so an
  interrupted run leaves no incomplete data under the final name.
  """
  try:
    with _quiet():
      builder = _builder(config.task.name, config.task.version)(
        config=config, data_dir=root, file_format="array_record"
      )
      builder.download_and_prepare()
  except OSError:
    # If another process was faster, the rename fails since its folder exists.
    if not folder.exists():
      raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences tfds, which reports downloads although there are none."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
    logging.set_verbosity(verbosity)
