"""Names of classes in runs that were saved before the classes moved."""

_MOVED = {
  "jaxmodels.layers.delta_net": "jaxmodels.mixers.delta_net",
  "jaxmodels.layers.gla": "jaxmodels.mixers.gla",
  "jaxmodels.layers.mamba2": "jaxmodels.mixers.mamba2",
  "jaxmodels.layers.s5": "jaxmodels.mixers.s5",
  "jaxmodels.layers.softmax_attention": "jaxmodels.mixers.softmax_attention",
  "train.config": "train.config.schema",
  "train.data.mqar": "train.data.tasks.mqar",
  "train.data.named": "train.data.tfds",
}


def current_name(path: str) -> str:
  """Returns today's "module:name" of a class, from that of a saved run."""
  module, colon, name = path.partition(":")
  return f"{_MOVED.get(module, module)}{colon}{name}"
