"""The keys of the header of a .m file: their numbers, the fields of ModelSpec, and the ranges.

Keys below 1000 are those of distributed-llama. Keys from 1000 up are ours, for what those cannot
express: flags, and numbers as float32 bits. docs/file-formats.md lists all keys.
"""

from __future__ import annotations

from enum import IntEnum

from dllama.model.spec import Arch, HiddenAct, QKNorm, RopeType
from dllama.model.weight_types import WeightType


class Key(IntEnum):
    """Header keys by number."""

    VERSION = 0
    ARCH = 1
    DIM = 2
    HIDDEN_DIM = 3
    N_LAYERS = 4
    N_HEADS = 5
    N_KV_HEADS = 6
    N_EXPERTS = 7
    N_ACTIVE_EXPERTS = 8
    VOCAB_SIZE = 9
    SEQ_LEN = 10
    HIDDEN_ACT = 11
    ROPE_THETA = 12
    WEIGHT_TYPE = 13
    ROPE_SCALING_FACTOR = 14
    ROPE_SCALING_LOW = 15
    ROPE_SCALING_HIGH = 16
    ROPE_SCALING_SEQ_LEN = 17
    ROPE_TYPE = 18
    HEAD_DIM = 19
    NORM_EPSILON = 20
    MOE_HIDDEN_DIM = 21
    NORM_EPSILON_F32 = 1000
    ROPE_THETA_F32 = 1001
    ROPE_SCALING_FACTOR_F32 = 1002
    ROPE_SCALING_LOW_F32 = 1003
    ROPE_SCALING_HIGH_F32 = 1004
    QKV_BIAS = 1005
    ROUTER_UNSCALED = 1006
    POST_NORMS = 1007
    EMBEDDING_SCALE = 1008
    ATTENTION_SCALE = 1009
    ATTENTION_CAP = 1010
    LOGITS_SCALE = 1011
    TENSOR_TYPES = 1012
    TIED = 1013
    NO_ROPE = 1014
    WINDOW = 1015
    WINDOWED = 1016
    WINDOW_ROPE_THETA = 1017
    LOGITS_CAP = 1018
    ROPE_DIM = 1020
    ROPE_FREQUENCIES = 1021
    ROPE_FACTOR = 1022
    O_BIAS = 1023
    FFN_BIAS = 1024
    NO_PRE_NORMS = 1025
    QK_NORM = 1026
    ROPE_SWITCH = 1027
    ROPE_LONG_FREQUENCIES = 1028
    SINKS = 1029
    ACT_LIMIT = 1030
    DENSE = 1040
    SHARED_HIDDEN_DIM = 1041
    SHARED_GATE = 1042
    ROUTER_SIGMOID = 1043
    ROUTER_CORRECTION = 1044
    EXPERT_GROUPS = 1045
    EXPERT_GROUPS_TAKEN = 1046
    EXPERT_GROUP_BEST = 1047
    EXPERT_SCALE = 1048
    KV_LATENT_DIM = 1060
    Q_LATENT_DIM = 1061
    VALUE_DIM = 1062
    LINEAR = 1080
    LINEAR_KEY_HEADS = 1081
    LINEAR_VALUE_HEADS = 1082
    LINEAR_KEY_DIM = 1083
    LINEAR_VALUE_DIM = 1084
    LINEAR_TAPS = 1085
    ATTENTION_GATE = 1086
    LAYER_NORMS = 1090
    NO_FFN_GATE = 1091
    PARALLEL_RESIDUAL = 1092
    FULL_HEAD_DIM = 1100
    FULL_KV_HEADS = 1101
    VALUE_NORM = 1102
    KEYS_AS_VALUES = 1103
    KV_SHARED_LAYERS = 1104
    KV_SHARED_HIDDEN_DIM = 1105
    LAYER_INPUT_DIM = 1106
    LAYER_SCALES = 1107
    DENSE_BESIDE = 1108
    SSM = 1110
    SSM_NORM = 1111
    SSM_NORM_FIRST = 1112
    SSM_CONV_BIAS = 1113
    SSM_BIAS = 1114
    SSM_O_BIAS = 1115
    SSM_LEAST_STEP = 1116
    SSM_MOST_STEP = 1117


# Our keys for what is not the default of a field of ModelSpec. A flag is 1 if the field is not its
# default; a factor is a float32; a number is an integer.
FLAGS = {
    Key.QKV_BIAS: "qkv_bias",
    Key.O_BIAS: "o_bias",
    Key.FFN_BIAS: "ffn_bias",
    Key.NO_FFN_GATE: "ffn_gated",
    Key.SINKS: "sinks",
    Key.ATTENTION_GATE: "attention_gate",
    Key.SSM: "ssm",
    Key.SSM_NORM: "ssm_norm",
    Key.SSM_NORM_FIRST: "ssm_norm_first",
    Key.SSM_CONV_BIAS: "ssm_conv_bias",
    Key.SSM_BIAS: "ssm_bias",
    Key.SSM_O_BIAS: "ssm_o_bias",
    Key.ROUTER_UNSCALED: "topk_normalised",
    Key.ROUTER_SIGMOID: "router_sigmoid",
    Key.ROUTER_CORRECTION: "router_correction",
    Key.SHARED_GATE: "shared_gate",
    Key.NO_PRE_NORMS: "pre_norms",
    Key.POST_NORMS: "post_norms",
    Key.LAYER_NORMS: "layer_norms",
    Key.PARALLEL_RESIDUAL: "parallel_residual",
    Key.TIED: "tied",
    Key.VALUE_NORM: "value_norm",
    Key.KEYS_AS_VALUES: "keys_as_values",
    Key.LAYER_SCALES: "layer_scales",
    Key.DENSE_BESIDE: "dense_beside",
}
FACTORS = {
    Key.WINDOW_ROPE_THETA: "window_rope_theta",
    Key.ROPE_FACTOR: "rope_factor",
    Key.ACT_LIMIT: "act_limit",
    Key.EMBEDDING_SCALE: "embedding_scale",
    Key.ATTENTION_SCALE: "attention_scale",
    Key.ATTENTION_CAP: "attention_cap",
    Key.LOGITS_SCALE: "logits_scale",
    Key.LOGITS_CAP: "logits_cap",
    Key.EXPERT_SCALE: "expert_scale",
    Key.SSM_LEAST_STEP: "ssm_least_step",
    Key.SSM_MOST_STEP: "ssm_most_step",
}
NUMBERS = {
    Key.WINDOW: "window",
    Key.ROPE_DIM: "rope_dim",
    Key.ROPE_SWITCH: "rope_switch",
    Key.SHARED_HIDDEN_DIM: "shared_hidden_dim",
    Key.EXPERT_GROUPS: "expert_groups",
    Key.EXPERT_GROUPS_TAKEN: "expert_groups_taken",
    Key.EXPERT_GROUP_BEST: "expert_group_best",
    Key.KV_LATENT_DIM: "kv_latent_dim",
    Key.Q_LATENT_DIM: "q_latent_dim",
    Key.VALUE_DIM: "value_dim",
    Key.LINEAR_KEY_HEADS: "linear_key_heads",
    Key.LINEAR_VALUE_HEADS: "linear_value_heads",
    Key.LINEAR_KEY_DIM: "linear_key_dim",
    Key.LINEAR_VALUE_DIM: "linear_value_dim",
    Key.LINEAR_TAPS: "linear_taps",
    Key.FULL_HEAD_DIM: "full_head_dim",
    Key.FULL_KV_HEADS: "full_kv_heads",
    Key.KV_SHARED_LAYERS: "kv_shared_layers",
    Key.KV_SHARED_HIDDEN_DIM: "kv_shared_hidden_dim",
    Key.LAYER_INPUT_DIM: "layer_input_dim",
}
# These stand in a header several times: for each layer, or for each half of each float64.
LAYERS = {
    Key.NO_ROPE: "no_rope",
    Key.WINDOWED: "windowed",
    Key.DENSE: "dense",
    Key.LINEAR: "linear",
}
DOUBLES = {
    Key.ROPE_FREQUENCIES: "rope_frequencies",
    Key.ROPE_LONG_FREQUENCIES: "rope_long_frequencies",
}
REPEATED = (Key.TENSOR_TYPES, *LAYERS, *DOUBLES)

# Most elements of a key or value in the KV cache (DL_HEAD_MAX in _kernels/simd/attention.h).
KEPT_MOST = 576
# Least and greatest value of each key that is a plain number.
RANGES = {
    Key.VERSION: (0, 0),
    Key.DIM: (1, 1 << 20),
    Key.HIDDEN_DIM: (1, 1 << 24),
    Key.N_LAYERS: (1, 4096),
    Key.N_HEADS: (1, 1 << 14),
    Key.N_KV_HEADS: (1, 1 << 14),
    Key.N_EXPERTS: (0, 4096),
    Key.N_ACTIVE_EXPERTS: (0, 4096),
    Key.VOCAB_SIZE: (1, 1 << 24),
    Key.SEQ_LEN: (1, (1 << 31) - 1),
    Key.ROPE_THETA: (1, (1 << 31) - 1),
    Key.ROPE_SCALING_FACTOR: (1, 1 << 16),
    Key.ROPE_SCALING_LOW: (0, 1 << 16),
    Key.ROPE_SCALING_HIGH: (0, 1 << 16),
    Key.ROPE_SCALING_SEQ_LEN: (0, (1 << 31) - 1),
    Key.HEAD_DIM: (2, 512),
    Key.NORM_EPSILON: (5, 6),
    Key.MOE_HIDDEN_DIM: (0, 1 << 24),
    Key.SHARED_HIDDEN_DIM: (1, 1 << 24),
    Key.EXPERT_GROUPS: (1, 4096),
    Key.EXPERT_GROUPS_TAKEN: (1, 4096),
    Key.EXPERT_GROUP_BEST: (1, 2),
    Key.WINDOW: (1, (1 << 31) - 1),
    Key.ROPE_SWITCH: (1, (1 << 31) - 1),
    Key.ROPE_DIM: (2, 512),
    Key.KV_LATENT_DIM: (1, KEPT_MOST),
    Key.Q_LATENT_DIM: (1, 1 << 20),
    Key.VALUE_DIM: (1, 512),
    Key.LINEAR_KEY_HEADS: (1, 1 << 14),
    Key.LINEAR_VALUE_HEADS: (1, 1 << 14),
    Key.LINEAR_KEY_DIM: (1, 512),
    Key.LINEAR_VALUE_DIM: (1, 512),
    Key.LINEAR_TAPS: (1, 16),
    Key.FULL_HEAD_DIM: (2, 512),
    Key.FULL_KV_HEADS: (1, 1 << 14),
    Key.KV_SHARED_LAYERS: (1, 4095),
    Key.KV_SHARED_HIDDEN_DIM: (1, 1 << 24),
    Key.LAYER_INPUT_DIM: (1, 1 << 16),
    **dict.fromkeys(FLAGS, (0, 1)),
}
ENUMS: dict[Key, type[IntEnum]] = {
    Key.ARCH: Arch,
    Key.HIDDEN_ACT: HiddenAct,
    Key.WEIGHT_TYPE: WeightType,
    Key.ROPE_TYPE: RopeType,
    Key.QK_NORM: QKNorm,
}
REQUIRED = (
    Key.ARCH, Key.DIM, Key.HIDDEN_DIM, Key.N_LAYERS, Key.N_HEADS, Key.N_KV_HEADS,
    Key.VOCAB_SIZE, Key.SEQ_LEN, Key.WEIGHT_TYPE,
)  # fmt: skip
