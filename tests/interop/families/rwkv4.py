TINY = [
  {
    "model_type": "rwkv",
    "hidden_size": 16,
    "attention_hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "rescale_every": 2,
    "layer_norm_epsilon": 1e-4,
    "vocab_size": 50,
  },
]
PUBLISHED = [
  (
    {"model_type": "rwkv", "hidden_size": 768, "num_hidden_layers": 12},
    169_342_464,
  ),
]
