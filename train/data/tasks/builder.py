"""Multi-query associative recall as a data set of tfds, without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from train.data.dataset import SPLITS
from train.data.guard import known_features
from train.data.tasks import mqar
from train.streams import say


@dataclasses.dataclass(eq=False)
class MqarConfig(tfds.core.BuilderConfig):
  """What tfds calls a config: a name, and the settings it stands for."""

  settings: mqar.Mqar = mqar.Mqar()  # noqa: RUF009  (frozen)


class MqarBuilder(tfds.core.GeneratorBasedBuilder):
  """Multi-query associative recall (Arora et al., 2023, arXiv:2312.04927)."""

  name = "mqar"
  # To be raised whenever other examples come of the same settings.
  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    row = tfds.features.Tensor(
      shape=(self.builder_config.settings.length,), dtype=np.int32
    )
    # Built here, because the usual way reads description files that lie
    # beside the module.
    return tfds.core.DatasetInfo(
      builder=self,
      description=mqar.Mqar.__doc__,
      features=tfds.features.FeaturesDict({"inputs": row, "targets": row}),
    )

  def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split: str) -> Iterator:
    return enumerate(mqar.generate(self.builder_config.settings, split))


def read(settings: mqar.Mqar, split: str) -> Sequence[dict[str, np.ndarray]]:
  """Returns the stored examples, after making them if they are not there.

  Args:
    settings: what to read.
    split: "train" or "validation".

  Returns:
    Examples by number, each with `inputs` and `targets`, int32 [L].
  """
  config = MqarConfig(name=_name(settings), description="", settings=settings)
  version = str(MqarBuilder.VERSION)
  root = pathlib.Path(settings.data_dir).expanduser()
  folder = root / MqarBuilder.name / config.name / version
  if not folder.exists():
    say(f"making the examples of associative recall: {folder}")
    _make(config, root, folder)
  with known_features():
    return tfds.builder_from_directory(folder).as_data_source(split=split)


def _make(config: MqarConfig, root: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the examples of all splits.

  tfds writes into a folder of another name and renames it when all is there,
  so that an interrupted run leaves nothing that could be taken for the data.
  """
  try:
    with _quiet():
      builder = MqarBuilder(
        config=config, data_dir=root, file_format="array_record"
      )
      builder.download_and_prepare()
  except OSError:
    # Another process may have been faster: the rename finds its folder there.
    if not folder.exists():
      raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences tfds, which speaks of downloads though there are none."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
    logging.set_verbosity(verbosity)


def _name(settings: mqar.Mqar) -> str:
  """Spells out every setting that changes the examples."""
  fields = dataclasses.asdict(settings)
  del fields["data_dir"]
  fields["num_queries"] = settings.queries
  return "-".join(f"{name}_{value}" for name, value in fields.items())
