"""Low-rank changes of the matrices of a frozen model (LoRA)."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxmodels.layers.common import check_fields, check_positive, wide
from jaxmodels.ops.engine import checks

__all__ = ["FROZEN", "LoRA", "merged", "without_lora"]

# The collection of variables that training does not change.
FROZEN = "frozen"
# The collection in which layers sow losses.
_SOWN = "losses"


class LoRA(nn.Module):
  """A model whose matrices W change by alpha / rank A B; only A and B train.

  Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
  arXiv:2106.09685. A matrix maps x to x W, with W of shape [..., m, n]; A is
  [..., m, rank] and B is [..., rank, n], with one pair for each index of the
  leading axes (layers of a scan, experts). Initially A is normal with variance
  1 / m and B is zero, so that the model starts unchanged. With `frozen_a`, A
  keeps its initial value too (Zhang et al. 2023, "LoRA-FA",
  arXiv:2308.03303).

  The module is called like the model, and its parameters are A and B alone, so
  the optimizer has no moments for W. The variables of the model are in the
  collection "frozen". A call computes W + alpha / rank A B, then the model. It
  therefore works for every module, and a step needs memory for one copy of the
  changed matrices and their gradients. For generation, `without_lora` adds the
  changes once.

  Attributes:
    model: The model, not bound.
    rank: The rank of the changes.
    alpha: The changes are multiplied by alpha / rank.
    targets: Patterns of the paths of parameters that change, as of a shell: `*`
      stands for any text, slashes included. A path has a slash in front. Only
      matrices whose last two axes are both longer than the rank change.
    frozen_a: Whether only B trains.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.
  """

  model: nn.Module
  rank: int = 8
  alpha: float = 16.0
  targets: tuple[str, ...] = ("*/kernel",)
  frozen_a: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, *args: Any, call: str = "__call__", **keywords: Any
  ) -> Any:
    """Calls a method of the model with the changed parameters.

    Args:
      *args: The arguments of the method.
      call: Its name.
      **keywords: Its keywords.
    """
    check_fields(self, "rank")
    check_positive(self, "alpha")
    inner = self._inner()

    def initial() -> Any:
      key = self.make_rng("params")
      variables = dict(inner.init(key, *args, method=call, **keywords))
      variables.pop(_SOWN, None)
      return variables

    variables = dict(self.variable(FROZEN, "base", initial).value)
    params = self._changed(variables.pop("params"))
    streams = self.scope.rngs if self.scope is not None else {}
    sows = self.is_mutable_collection(_SOWN) and not self.is_initializing()
    result, sown = inner.apply(
      {"params": params, **variables},
      *args,
      method=call,
      rngs={name: self.make_rng(name) for name in streams if name != "params"},
      mutable=[_SOWN] if sows else [],
      **keywords,
    )
    if _SOWN in sown:
      self.put_variable(_SOWN, "base", sown[_SOWN])
    return result

  def features(self, *args: Any, **keywords: Any) -> Any:
    """The model's method `features`, with the changed parameters."""
    return self(*args, call="features", **keywords)

  def logits(self, *args: Any, **keywords: Any) -> Any:
    """The model's method `logits`, with the changed parameters."""
    return self(*args, call="logits", **keywords)

  def init_state(self, batch_size: int) -> Any:
    """The zero state of the model."""
    inner: Any = self._inner()
    return inner.init_state(batch_size)

  @property
  def vocab_size(self) -> int | None:
    """The vocabulary of the model; None if it has none."""
    return getattr(self.model, "vocab_size", None)

  @nn.nowrap
  def _changed(self, params: Any) -> Any:
    shapes = self._shapes(params)

    def draw_a(key: jax.Array) -> Any:
      keys = jax.random.split(key, len(shapes))
      drawn = {
        path: jax.random.normal(key, (*shape[:-1], self.rank), jnp.float32)
        * shape[-2] ** -0.5
        for key, (path, shape) in zip(keys, shapes.items(), strict=True)
      }
      return traverse_util.unflatten_dict(drawn)

    def draw_b(key: jax.Array) -> Any:
      del key
      zeros = {
        path: jnp.zeros((*shape[:-2], self.rank, shape[-1]), jnp.float32)
        for path, shape in shapes.items()
      }
      return traverse_util.unflatten_dict(zeros)

    if self.frozen_a:
      a = self.variable(
        FROZEN, "lora_a", lambda: draw_a(self.make_rng("params"))
      ).value
    else:
      a = self.param("lora_a", draw_a)
    return merged(
      params, a, self.param("lora_b", draw_b), self.alpha / self.rank
    )

  @nn.nowrap
  def _shapes(self, params: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of the matrices that change, by path."""

    def is_target(path: tuple[str, ...]) -> bool:
      name = "/" + "/".join(path)
      return any(fnmatch.fnmatchcase(name, p) for p in self.targets)

    found = {
      path: leaf.shape
      for path, leaf in traverse_util.flatten_dict(params).items()
      if leaf.ndim >= 2 and min(leaf.shape[-2:]) > self.rank and is_target(path)
    }
    checks.require(
      len(found) > 0,
      f"LoRA: no matrix of the model has a path like {self.targets!r} and axes"
      f" longer than rank {self.rank}: change targets, or lower rank",
    )
    return found

  @nn.nowrap
  def _inner(self) -> Any:
    """The model, not bound to this module."""
    inner = self.model.clone(parent=None, name=None)
    if self.axis_name is None:
      return inner
    return inner.clone(axis_name=self.axis_name)


def merged(params: Any, a: Any, b: Any, scale: float) -> Any:
  """Returns parameters with the changes added: W + scale A B.

  Args:
    params: The parameters of a model.
    a: A [..., m, rank] of each matrix that changes, in a dictionary like that
      of the parameters.
    b: B [..., rank, n] of each of them, in the same way.
    scale: The factor of the changes.

  Returns:
    The parameters. Those that change are float32 or wider, because bfloat16
    would round small changes away.
  """
  flat = traverse_util.flatten_dict(params)
  b = traverse_util.flatten_dict(b)
  for path, left in traverse_util.flatten_dict(a).items():
    dtype = wide(flat[path].dtype)
    product = left.astype(dtype) @ b[path].astype(dtype)
    flat[path] = flat[path].astype(dtype) + jnp.asarray(scale, dtype) * product
  return traverse_util.unflatten_dict(flat)


def without_lora(
  model: nn.Module, variables: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
  """Returns the model inside of a `LoRA`, with the changes in its parameters.

  Args:
    model: Any model; one that is no `LoRA` is returned as it is.
    variables: Its variables.

  Returns:
    The model and its variables; parameters have the dtypes of the frozen ones.
  """
  if not isinstance(model, LoRA):
    return model, variables
  frozen = variables[FROZEN]
  inner = dict(frozen["base"])
  a = frozen["lora_a"] if model.frozen_a else variables["params"]["lora_a"]
  scale = model.alpha / model.rank
  params = merged(inner["params"], a, variables["params"]["lora_b"], scale)
  inner["params"] = jax.tree.map(
    lambda new, old: new.astype(old.dtype), params, inner["params"]
  )
  return model.model, inner
