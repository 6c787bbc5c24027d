TINY = [
  {
    "model_type": "zamba2",
    "adapter_rank": 3,
    "attention_head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 12,
    "layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"],
    "mamba_d_state": 4,
    "mamba_ngroups": 2,
    "n_mamba_heads": 4,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_mem_blocks": 2,
    "time_step_min": 0.01,
    "use_mem_rope": True,
    "use_shared_attention_adapter": True,
    "vocab_size": 30,
  }
]
PUBLISHED = [
  (
    {
      "model_type": "zamba2",
      "hidden_size": 2560,
      "n_mamba_heads": 80,
      "num_mem_blocks": 2,
      "vocab_size": 32000,
    },
    2_662_214_560,
  )
]
