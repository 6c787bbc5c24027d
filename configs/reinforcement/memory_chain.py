"""Remembers a bit for 64 steps."""

from jaxmodels.models import RecurrentPolicy
from train.reinforcement import MemoryChain, ReinforcementConfig


def get_config() -> ReinforcementConfig:
  """One layer of S5, whose state starts anew in each episode."""
  return ReinforcementConfig(
    model=RecurrentPolicy(actions=2, width=32, depth=1, mixers=("s5",)),
    environment=MemoryChain(shortest=2, longest=64),
    rollout_steps=64,
    updates=100,
    eval_every=10,
  )
