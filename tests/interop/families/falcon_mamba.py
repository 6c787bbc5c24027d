TINY = [
  {
    "model_type": "falcon_mamba",
    "conv_kernel": 4,
    "expand": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "mixer_rms_eps": 1e-5,
    "num_hidden_layers": 2,
    "state_size": 4,
    "tie_word_embeddings": True,
    "time_step_rank": "auto",
    "vocab_size": 30,
  }
]
PUBLISHED = [
  (
    {
      "model_type": "falcon_mamba",
      "expand": 16,
      "hidden_size": 4096,
      "intermediate_size": 8192,
      "num_hidden_layers": 64,
      "state_size": 16,
      "time_step_rank": 256,
      "tie_word_embeddings": False,
      "vocab_size": 65024,
    },
    7_272_665_088,
  )
]
