"""Reads a `config.json` so that no key of it is overlooked."""

from collections.abc import Mapping
from typing import Any

__all__ = ["Config", "FolderError"]

# Keys of transformers that do not change what a model computes.
NEUTRAL = frozenset({
  "_attn_implementation", "_attn_implementation_autoset", "_commit_hash",
  "_name_or_path", "architectures", "attention_dropout", "attn_pdrop",
  "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype", "embd_pdrop",
  "eos_token_id", "experts_implementation", "hidden_dropout", "id2label",
  "initializer_range", "keys_to_ignore_at_inference", "label2id",
  "model_type", "output_attentions", "output_hidden_states",
  "output_router_logits", "pad_token_id", "problem_type", "resid_pdrop",
  "return_dict", "router_aux_loss_coef", "sep_token_id", "summary_activation",
  "tokenizer_class", "torch_dtype", "torchscript", "transformers_version",
  "unk_token_id", "use_cache", "use_return_dict",
})  # fmt: skip
# Keys of generation that old configs of transformers have.
GENERATION = frozenset({
  "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id",
  "diversity_penalty", "do_sample", "early_stopping",
  "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
  "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
  "is_decoder", "length_penalty", "max_length", "min_length",
  "no_repeat_ngram_size", "num_beam_groups", "num_beams",
  "num_logits_to_keep", "num_return_sequences", "output_scores", "prefix",
  "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
  "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
  "top_k", "top_p", "typical_p", "use_bfloat16",
})  # fmt: skip
# Keys that old configs have with the values null, false or empty.
EMPTY = frozenset({
  "add_cross_attention", "cross_attention_hidden_size", "is_encoder_decoder",
  "pruned_heads", "tie_encoder_decoder",
})  # fmt: skip
_REQUIRED = object()


class FolderError(ValueError):
  """A folder of a checkpoint cannot be read; one line says what and why."""


class Config:
  """The keys of a `config.json`, each of which a family must read.

  A family reads a key by one of the methods below. `check_all_read` raises for
  keys that nobody read, because such a key may change what the model computes.

  Attributes:
    where: The name of the file, or of the part of it, for errors.
  """

  def __init__(self, values: Mapping[str, Any], where: str = "config.json"):
    self.where = where
    self._values = {key: _number(value) for key, value in values.items()}
    self._read: set[str] = set()
    self._parts: list[Config] = []

  def __contains__(self, key: str) -> bool:
    return key in self._values

  def __getitem__(self, key: str) -> Any:
    """The value of a key that must be there."""
    return self.get(key, _REQUIRED)

  def get(self, key: str, default: Any = None) -> Any:
    """The value of a key, or the default of the public implementation."""
    self._read.add(key)
    value = self._values.get(key, default)
    if value is _REQUIRED:
      raise FolderError(f"{self.where}: the key {key!r} is missing")
    return value

  def first(self, keys: tuple[str, ...], default: Any = _REQUIRED) -> Any:
    """The value of the first of several names of a key that is there."""
    present = [key for key in keys if key in self]
    self._read.update(keys)
    return self.get(present[0] if present else keys[0], default)

  def expect(self, key: str, *supported: Any) -> None:
    """Refuses a value of a key that the family does not support.

    Args:
      key: The key; it may be missing.
      *supported: The values that the family supports, the default of the
        public implementation first.
    """
    value = self.get(key, supported[0])
    if value not in supported:
      known = " or ".join(repr(x) for x in supported)
      raise FolderError(
        f"{self.where}: {key} is {value!r}, but only {known} is supported"
      )

  def ignore(self, *keys: str) -> None:
    """Marks keys that do not change what the model computes."""
    self._read.update(keys)

  def part(self, key: str) -> "Config":
    """The keys of a value that is itself a mapping; none if it is missing."""
    value = self.get(key) or {}
    if not isinstance(value, Mapping):
      raise FolderError(f"{self.where}: {key} must be a mapping, got {value!r}")
    part = Config(value, f"{self.where}: {key}")
    self._parts.append(part)
    return part

  def check_all_read(self) -> None:
    """Raises for a key that nobody read.

    Raises:
      FolderError: It names the keys.
    """
    empty = {key for key in EMPTY if not self._values.get(key)}
    neutral = self._read | NEUTRAL | GENERATION | empty
    left = sorted(self._values.keys() - neutral)
    if left:
      raise FolderError(
        f"{self.where}: unknown key {', '.join(map(repr, left))}: it may "
        "change what the model computes"
      )
    for part in self._parts:
      part.check_all_read()


def _number(value: Any) -> Any:
  """Decodes the infinity that transformers writes as a mapping, lists too."""
  if isinstance(value, list):
    return [_number(x) for x in value]
  if isinstance(value, Mapping) and set(value) == {"__float__"}:
    return float(value["__float__"])
  return value
