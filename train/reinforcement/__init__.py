"""Reinforcement learning of recurrent policies in environments written in JAX.

`environments` has the tasks, `rollout` runs policies in many of them at once,
`ppo` improves a policy, and `run` is the loop of a run.
"""

from train.reinforcement.config import ReinforcementConfig
from train.reinforcement.environments import (
  Environment,
  HiddenGoal,
  MemoryChain,
)
from train.reinforcement.ppo import Ppo

__all__ = [
  "Environment",
  "HiddenGoal",
  "MemoryChain",
  "Ppo",
  "ReinforcementConfig",
]
