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
# Classes that moved out of a module that is still there.
_CLASSES = {
  "train.losses:Classification": "train.losses.sequences:Classification",
  "train.losses:Distillation": "train.losses.distillation:Distillation",
  "train.losses:NextToken": "train.losses.tokens:NextToken",
  "train.losses:Regression": "train.losses.sequences:Regression",
}


def current_name(path: str) -> str:
  """Returns today's "module:name" of a class, from that of a saved run."""
  path = _CLASSES.get(path, path)
  module, colon, name = path.partition(":")
  return f"{_MOVED.get(module, module)}{colon}{name}"
