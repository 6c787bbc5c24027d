TINY = [
  {
    "model_type": "gated_deltanet",
    "hidden_size": 24,
    "head_dim": 6,
    "num_heads": 2,
    "num_v_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "output_gate_activation": "sigmoid",
    "tie_word_embeddings": True,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "gated_deltanet"}, 1_387_348_732)]
