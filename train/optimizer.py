"""The parts that the optimizers of `train.config.optimizers` are made of.

Each is an optax transformation. Two of them, the moving average of parameters
and schedule-free training, evaluate other parameters than those that the next
gradient is taken at: `evaluation_params` finds these in the optimizer's state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from train.norm import norm
from train.parameters import is_stacked, path_of

# A property of one parameter, by its path and its shape.
ByPath = Callable[[str, tuple[int, ...]], Any]


def schedule(optimizer: Any, steps: int) -> optax.Schedule | None:
  """Returns the learning rate by the number of updates so far.

  Args:
    optimizer: The optimizer of a config.
    steps: Updates in the run.

  Returns:
    The schedule; None for an optimizer of the user's own without a method
    `rate(steps)`.
  """
  rate = getattr(optimizer, "rate", None)
  return None if rate is None else rate(steps)


def make_optimizer(
  optimizer: Any, steps: int
) -> optax.GradientTransformationExtraArgs:
  """Builds the transformation of gradients into updates.

  Args:
    optimizer: The optimizer of a config: it has `transformation(steps)`.
    steps: Updates in the run.
  """
  return _own_promotion(optimizer.transformation(steps))


def by_path(function: ByPath, params: Any) -> Any:
  """Returns a property of every parameter, in the shape of the parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda keys, leaf: function(path_of(keys), leaf.shape), params
  )


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
  """As optax has it, with a norm that float16 does not make infinite."""

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    del params
    size = norm(updates)

    def clip(x: jax.Array) -> jax.Array:
      clipped = (x.astype(jnp.float32) / size) * largest
      return jnp.where(size < largest, x, clipped.astype(x.dtype))

    return jax.tree.map(clip, updates), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def add_noise(variance: float, seed: int) -> optax.GradientTransformation:
  """Adds normal noise of variance `variance / t^0.55` at update t.

  Neelakantan et al. 2015, arXiv:1511.06807. The noise is that of
  `optax.add_noise`. The state holds the data of the key, since checkpoints hold
  plain arrays.
  """
  inner = optax.add_noise(variance, 0.55, seed)

  def init(params: Any) -> Any:
    state = inner.init(params)
    return state._replace(rng_key=jax.random.key_data(state.rng_key))

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    key = jax.random.wrap_key_data(state.rng_key)
    updates, state = inner.update(updates, state._replace(rng_key=key), params)
    data = jax.random.key_data(state.rng_key)
    return updates, state._replace(rng_key=data)

  return optax.GradientTransformation(init, update)


def scale_by_path(factor: ByPath) -> optax.GradientTransformation:
  """Multiplies the update of every parameter by a number of its own."""

  def scaled(keys: tuple[Any, ...], update: jax.Array) -> jax.Array:
    number = factor(path_of(keys), update.shape)
    return update if number == 1 else update * number

  return optax.stateless(
    lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates)
  )


def layerwise(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies a transformation to one parameter of one layer at a time.

  Layers under a scan are one array with an axis of layers in front. A
  transformation that looks at a whole array (its rows, its norm) would mix
  them. Here they get the updates that separate layers get.

  Args:
    inner: A transformation whose state has the same structure for every array.
  """
  one = jax.ShapeDtypeStruct((), jnp.float32)
  shapes = jax.eval_shape(inner.init, one)
  kind, both = jax.tree.structure(shapes), jax.tree.structure((0, shapes))

  def lifted(keys: tuple[Any, ...], function: Any) -> Any:
    return jax.vmap(function) if is_stacked(path_of(keys)) else function

  def init(params: Any) -> Any:
    states = jax.tree_util.tree_map_with_path(
      lambda keys, leaf: lifted(keys, inner.init)(leaf), params
    )
    # The paths in the state end in the path of a parameter, which says how
    # the array is sharded.
    return jax.tree.transpose(jax.tree.structure(params), kind, states)

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    outer = jax.tree.structure(updates)
    results = jax.tree_util.tree_map_with_path(
      lambda keys, *given: lifted(keys, inner.update)(*given),
      updates,
      jax.tree.transpose(kind, outer, state),
      params,
    )
    return jax.tree.transpose(outer, both, results)

  return optax.GradientTransformation(init, update)


def sharpness_aware(
  inner: optax.GradientTransformation, radius: float
) -> optax.GradientTransformationExtraArgs:
  """Takes the gradient where the loss is worst nearby (Foret et al. 2020).

  arXiv:2010.01412, by `optax.contrib.sam`: one step up along the gradient, to
  the length `radius`, and the gradient there, of the same batch, for `inner`.
  `update` needs `grad_fn`, a function of parameters and a number that it does
  not use.
  """

  def climb(updates: Any, params: Any) -> Any:
    del params
    scale = -radius / jnp.maximum(norm(updates), 1e-30)
    return jax.tree.map(lambda x: x * scale.astype(x.dtype), updates)

  return contrib.sam(inner, optax.stateless(climb), opaque_mode=True)


class Averaged(NamedTuple):
  """State of `average_params`.

  Attributes:
    inner: State of the transformation inside.
    average: Average of the parameters, in float32 or wider.
    seen: Updates so far, int32.
  """

  inner: Any
  average: Any
  seen: jax.Array


def average_params(
  inner: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
  """Keeps an exponential moving average of the parameters in the state.

  Args:
    inner: Gives the updates, which stay as they are.
    decay: Weight of the old average. At update n it is (1 + n) / (10 + n) if
      that is less, so that the average soon forgets the initial parameters.
  """
  inner = optax.with_extra_args_support(inner)

  def init(params: Any) -> Averaged:
    # A copy: the step gives away the memory of each array once.
    wide = jax.tree.map(lambda p: jnp.array(p, _wide(p.dtype)), params)
    return Averaged(inner.init(params), wide, jnp.zeros((), jnp.int32))

  def update(
    updates: Any, state: Averaged, params: Any = None, **extra: Any
  ) -> tuple[Any, Averaged]:
    updates, inside = inner.update(updates, state.inner, params, **extra)
    seen = state.seen + 1
    n = seen.astype(jnp.float32)
    weight = 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n))

    def moved(average: jax.Array, param: jax.Array) -> jax.Array:
      own = param.astype(average.dtype)
      return average + (own - average) * weight.astype(average.dtype)

    new = optax.apply_updates(params, updates)
    average = jax.tree.map(moved, state.average, new)
    return updates, Averaged(inside, average, seen)

  return optax.GradientTransformationExtraArgs(init, update)


def _wide(dtype: Any) -> Any:
  """The dtype of an average: bfloat16 loses the small steps of one."""
  return jnp.promote_types(dtype, jnp.float32)


def averaging_state(opt_state: Any) -> Any:
  """Returns the part of a state that has other parameters for evaluation.

  Args:
    opt_state: The state of any optax transformation, or its shapes.

  Returns:
    The state of `average_params` or of `optax.contrib.schedule_free`, the
    outermost if there are several; None if there is none.
  """
  kinds = (Averaged, contrib.ScheduleFreeState)
  nodes = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds))
  return next((node for node in nodes if isinstance(node, kinds)), None)


def evaluation_params(opt_state: Any, params: Any) -> Any:
  """Returns the parameters that validation and sampling use.

  Args:
    opt_state: The state of the optimizer.
    params: The parameters that the next gradient is taken at.

  Returns:
    The average of an optimizer that has one, in the dtypes of `params`; else
    `params`.
  """
  state = averaging_state(opt_state)
  if state is None:
    return params
  if isinstance(state, Averaged):
    found = state.average
  else:
    with jax.numpy_dtype_promotion("standard"):
      found = contrib.schedule_free_eval_params(state, params)
  return jax.tree.map(lambda x, p: x.astype(p.dtype), found, params)


def _own_promotion(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Lets optax promote dtypes as it was written to.

  Its Adam raises a float to an int32 count, which strict promotion refuses;
  the rest of a program can still be strict.
  """
  inner = optax.with_extra_args_support(inner)

  def init(params: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
      return inner.init(params)

  def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
      return inner.update(updates, state, params, **extra)

  return optax.GradientTransformationExtraArgs(init, update)
