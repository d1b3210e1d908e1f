"""Which fields of a config.json may be there: those that a family reads, and harmless ones.

A field that nothing reads may change what the model computes, so it is refused by its name.
"""

from __future__ import annotations

from typing import Any

from dllama.checks import shown
from dllama.errors import UnsupportedError

Config = dict[str, Any]

# What llama.read_config reads or refuses, and with it every family.
LLAMA = frozenset({
    "architectures", "attention_bias", "head_dim", "hidden_act", "hidden_size",
    "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers", "mlp_bias",
    "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "original_max_position_embeddings", "partial_rotary_factor", "rms_norm_eps",
    "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings",
    "use_sliding_window", "vocab_size",
})  # fmt: skip
EXPERTS = frozenset({"num_experts", "num_experts_per_tok", "num_local_experts"})

# Fields that no forward pass reads. They are about training, generation, files, or other tasks.
HARMLESS = frozenset({
    # Where the files come from, and how they are stored.
    "_commit_hash", "_name_or_path", "dtype", "model_name", "name_or_path", "torch_dtype",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "bf16", "fp16", "fp32",
    # Training and initial values. None of these is active in a forward pass of a trained model.
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout",
    "dropout", "embd_pdrop", "embedding_dropout", "gradient_checkpointing", "hidden_dropout",
    "hidden_dropout_prob", "initializer_range", "neftune_noise_alpha", "output_router_logits",
    "resid_pdrop", "residual_dropout", "router_aux_loss_coef", "router_jitter_noise",
    "aux_loss_alpha", "ep_size", "seq_aux",
    # How the same numbers are computed.
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "_flash_attn_2_enabled", "attn_implementation", "cache_implementation",
    "experts_implementation", "pretraining_tp", "torchscript", "use_cache",
    "use_flash_attention", "use_flash_attention_2", "use_flash_attn",
    # Ids of tokens; the tokenizer reads those that it needs.
    "bos_token_id", "decoder_start_token_id", "eos_token_id", "mask_token_id",
    "pad_token", "pad_token_id", "sep_token_id", "tokenizer_class", "unk_token_id",
    # Generation.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "max_sequence_length", "min_length",
    "model_max_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
    # Other tasks of the same class.
    "finetuning_task", "id2label", "is_decoder", "label2id", "num_labels", "prefix",
    "problem_type", "task_specific_params",
})  # fmt: skip
# Fields that say what is so anyway; any other value is refused, false and 0 too.
ONLY: dict[str, tuple[object, ...]] = {
    "activation": ("swiglu",),
    "causal": (True,),
    "is_causal": (True,),
    "is_llama_config": (True, False),
    "use_rmsnorm": (True,),
    "use_rope": (True,),
}
# Classes whose code would be that of the repository.
OWN_CODE = ("AutoModel", "AutoModelForCausalLM")


def check_keys(config: Config, known: frozenset[str], path: object) -> None:
    """UnsupportedError names the first field that is set and that nothing reads.

    Args:
        config: a config.json.
        known: the fields that the family reads or refuses.
        path: the file, for messages.
    """
    for key, value in config.items():
        if key in known or key in HARMLESS or value is None:
            continue
        if key == "auto_map":
            _check_code(value, path)
        elif key in ONLY:
            if value not in ONLY[key]:
                raise UnsupportedError(f"{path}: {key} {value!r} is not supported")
        elif value:
            raise UnsupportedError(
                f"{path}: {key} {shown(value)} is not known for this model_type, and may change "
                "what the model computes (delete the field if it does not)"
            )


def _check_code(auto_map: object, path: object) -> None:
    """Refuse a repository with a program of its own for the model."""
    for name in OWN_CODE:
        if isinstance(auto_map, dict) and auto_map.get(name):
            raise UnsupportedError(
                f"{path}: auto_map names {auto_map[name]!r}: the model has code of its own, which "
                "is not run"
            )
