"""Small arguments of the ops by length, drawn as the records draw them."""

import functools

from jaxmodels.testing.examples import Sizes, draws

HEADS, KEYS, VALUES = Sizes.heads, Sizes.width, Sizes.values


def by_length(make):
  """Makes `(rng, length) -> arguments` of what makes `(rng, sizes) -> ...`."""

  @functools.wraps(make)
  def made(*args, sizes=None, **options):
    draw = make(*args, **options)
    return lambda rng, length: draw(rng, Sizes(length=length, **(sizes or {})))

  return made


linear_attention = by_length(draws.linear_attention)
delta_rule = by_length(draws.delta_rule)
diagonal = by_length(draws.diagonal)
dplr = by_length(draws.dplr)
dense = by_length(draws.dense)
state_space = by_length(draws.state_space)
householder = by_length(draws.householder)
log_linear = by_length(draws.log_linear)
mesa = by_length(lambda: draws.mesa)()
normalized = by_length(draws.normalized)
qkv = by_length(lambda: draws.qkv)()
selective_scan = by_length(lambda: draws.selective_scan)()
signature = by_length(lambda: draws.signature)()
ttt = by_length(lambda: draws.ttt)()


def log_decay(rng, length, *, per_key):
  return draws.log_decay(rng, Sizes(length=length), per_key=per_key)
