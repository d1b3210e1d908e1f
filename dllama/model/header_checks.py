"""Whether the fields of a ModelSpec go together."""

from __future__ import annotations

from dataclasses import fields

from dllama.errors import FormatError
from dllama.model.header_keys import DOUBLES, KEPT_MOST, LAYERS, NUMBERS, RANGES, Key
from dllama.model.spec import HiddenAct, ModelSpec, QKNorm
from dllama.model.tensors import typed, width_of

# Experts of all layers together. A reader prepares a few tensors and tasks for each of them, so
# a hostile header must not be able to ask for more.
MOST_EXPERTS = 1 << 16
# Fields of a ModelSpec that say nothing of a model without experts.
OF_EXPERTS = (
    "shared_hidden_dim", "router_sigmoid", "router_correction", "expert_groups", "expert_scale",
)  # fmt: skip
# Fields that the columns of some matrices depend on.
OTHER_WIDTHS = {
    "q_b": "q_latent_dim",
    "k_b": "head_dim - rope_dim",
    "v_b": "kv_latent_dim",
    "linear_o": "linear values",
    "layer_input_up": "layer_input_dim",
    "layer_embedding": "layers * layer_input_dim",
}
DEFAULTS = {field.name: field.default for field in fields(ModelSpec)}


def check_spec(spec: ModelSpec, path: object) -> None:
    """FormatError if the sizes contradict each other."""
    if spec.n_layers > RANGES[Key.N_LAYERS][1]:
        raise FormatError(path, "n_layers", spec.n_layers, f"at most {RANGES[Key.N_LAYERS][1]}")
    for field in ("n_kv_heads", "full_kv_heads"):
        count = getattr(spec, field)
        if count and spec.n_heads % count:
            raise FormatError(path, field, count, f"a divisor of {spec.n_heads}")
    for field in ("head_dim", "full_head_dim"):
        size = getattr(spec, field)
        if size != DEFAULTS[field] and (size < 2 or size % 2 or size > 512):
            raise FormatError(path, field, size, "even, 2 to 512")
    for field in LAYERS.values():
        layers = getattr(spec, field)
        if list(layers) != sorted(set(layers) & set(range(spec.n_layers))):
            raise FormatError(path, field, list(layers), f"ascending layers of {spec.n_layers}")
    if bool(spec.window) != bool(spec.windowed):
        expected = "a number for layers with a window" if spec.windowed else "layers that have it"
        raise FormatError(path, "window", spec.window, expected)
    if spec.window_rope_theta and not spec.windowed:
        raise FormatError(path, "window_rope_theta", spec.window_rope_theta, "layers that have it")
    smallest = min(spec.head_dim, spec.head_size(False))
    if spec.rope_dim % 2 or not 0 <= spec.rope_dim <= smallest:
        raise FormatError(path, "rope_dim", spec.rope_dim, f"even, at most {smallest}")
    pairs = (spec.rope_dim or spec.head_size(False)) // 2
    for field in DOUBLES.values():
        if len(getattr(spec, field)) not in (0, pairs):
            raise FormatError(path, field, len(getattr(spec, field)), f"{pairs} or none")
    if (spec.hidden_act is HiddenAct.CLAMPED) != (spec.act_limit > 0):
        raise FormatError(path, "act_limit", spec.act_limit, "a limit of a clamped activation")
    _check_blocks(spec, path)
    if bool(spec.rope_switch) != bool(spec.rope_long_frequencies):
        expected = "a number of tokens" if spec.rope_long_frequencies else "frequencies behind it"
        raise FormatError(path, "rope_switch", spec.rope_switch, expected)
    _check_heads(spec, path)
    _check_latents(spec, path)
    _check_linear(spec, path)
    _check_experts(spec, path)
    for tensor in typed(spec):
        kind = spec.type_of(tensor)
        width = width_of(spec, tensor)
        if width % kind.block_size:
            expected = f"a multiple of {kind.block_size} for {kind.name.lower()} weights"
            raise FormatError(path, _width_field(spec, tensor), width, expected)


def _check_blocks(spec: ModelSpec, path: object) -> None:
    """FormatError if norms, gates and the order of blocks contradict each other."""
    if not spec.ffn_gated and spec.hidden_act is HiddenAct.CLAMPED:
        raise FormatError(path, "hidden_act", "clamped", "another without a gate")
    if spec.parallel_residual and not spec.pre_norms:
        raise FormatError(path, "parallel_residual", "set", "norms before blocks")
    if spec.layer_norms and spec.qk_norm is QKNorm.WIDTH:
        raise FormatError(path, "qk_norm", "over all heads", "norms of single heads, as LayerNorm")


def _width_field(spec: ModelSpec, tensor: str) -> str:
    """What the width of a tensor that `typed` calls by this name is called."""
    at, _, last = tensor.rpartition(".")
    if last != "down":
        return {"o": "heads * head_dim", **OTHER_WIDTHS}.get(last, "dim")
    if at.endswith(".shared"):
        return "shared_hidden_dim"
    return "moe_hidden_dim" if spec.moe_hidden_dim and at.endswith(".experts") else "hidden_dim"


def _check_experts(spec: ModelSpec, path: object) -> None:
    """FormatError if the numbers of a mixture of experts contradict each other."""
    least = min(1, spec.n_experts)
    if not least <= spec.n_active_experts <= spec.n_experts:
        expected = f"{least} to {spec.n_experts}"
        raise FormatError(path, "n_active_experts", spec.n_active_experts, expected)
    if spec.n_layers * spec.n_experts > MOST_EXPERTS:
        found = f"{spec.n_experts} in each of {spec.n_layers} layers"
        raise FormatError(path, "n_experts", found, f"at most {MOST_EXPERTS} together")
    if spec.dense and not spec.n_experts:
        raise FormatError(path, "dense", list(spec.dense), "none in a model without experts")
    for field in OF_EXPERTS:
        value = getattr(spec, field)
        if value != DEFAULTS[field] and not spec.n_experts:
            raise FormatError(path, field, value, f"{DEFAULTS[field]} in a model without experts")
    if spec.dense_beside and not (spec.n_experts and spec.pre_norms and spec.post_norms):
        raise FormatError(path, "dense_beside", "set", "experts, with norms before and after them")
    if spec.shared_gate and not spec.shared_hidden_dim:
        raise FormatError(path, "shared_gate", "set", "a width of the shared expert")
    if spec.router_correction and not spec.router_sigmoid:
        raise FormatError(path, "router_correction", "set", "sigmoids of the scores")
    _check_groups(spec, path)


def _check_groups(spec: ModelSpec, path: object) -> None:
    """FormatError if a token cannot take experts of some groups."""
    groups, taken, best = (
        spec.expert_groups,
        spec.expert_groups_taken,
        spec.expert_group_best,
    )
    if not groups:
        if taken or best:
            raise FormatError(path, "expert_groups", 0, "groups, if some of them are taken")
        return
    if spec.n_experts % groups:
        raise FormatError(path, "expert_groups", groups, f"a divisor of {spec.n_experts} experts")
    if not 1 <= taken <= groups or spec.n_experts // groups * taken < spec.n_active_experts:
        expected = f"up to {groups}, with at least {spec.n_active_experts} experts"
        raise FormatError(path, "expert_groups_taken", taken, expected)
    if not best:
        raise FormatError(path, "expert_group_best", best, "1 or 2")


def _check_heads(spec: ModelSpec, path: object) -> None:
    """FormatError if heads of some layers, or what they share, contradict other fields."""
    for field in ("full_head_dim", "full_kv_heads"):
        if getattr(spec, field) and not spec.windowed:
            raise FormatError(path, field, getattr(spec, field), "layers with a window")
    if spec.full_head_dim and not (spec.window_rope_theta or spec.rope_dim):
        found, expected = spec.full_head_dim, "window_rope_theta or rope_dim beside it"
        raise FormatError(path, "full_head_dim", found, expected)
    first, hidden = spec.first_kv_shared, spec.kv_shared_hidden_dim
    if hidden and not spec.kv_shared_layers:
        raise FormatError(path, "kv_shared_hidden_dim", hidden, "none without kv_shared_layers")
    alone = any(spec.kv_layer(layer) < 0 for layer in range(max(0, first), spec.n_layers))
    if first < 1 or alone:
        expected = "an earlier layer with a window for each with one, and without for the others"
        raise FormatError(path, "kv_shared_layers", spec.kv_shared_layers, expected)
    wrong = {"qkv_bias": spec.qkv_bias, "attention_gate": spec.attention_gate,
             "linear": spec.linear, "kv_latent_dim": spec.kv_latent_dim,
             "layer_norms": spec.layer_norms,
             "qk_norm": spec.qk_norm in (QKNorm.WIDTH, QKNorm.APART)}  # fmt: skip
    for field in ("full_head_dim", "full_kv_heads", "value_norm", "keys_as_values",
                  "kv_shared_layers"):  # fmt: skip
        for other, value in wrong.items():
            if value and getattr(spec, field):
                raise FormatError(path, other, value, f"none in a model with {field}")
    for field in ("dense_beside", "layer_input_dim"):
        if spec.layer_norms and getattr(spec, field):
            raise FormatError(path, "layer_norms", True, f"none in a model with {field}")


def _check_latents(spec: ModelSpec, path: object) -> None:
    """FormatError unless latents go with the other fields."""
    if not spec.kv_latent_dim:
        for field in ("q_latent_dim", "value_dim"):
            if getattr(spec, field):
                raise FormatError(path, field, getattr(spec, field), "none without kv_latent_dim")
        return
    if spec.n_kv_heads != 1:
        raise FormatError(path, "n_kv_heads", spec.n_kv_heads, "1 in a model with kv_latent_dim")
    if not 0 < spec.rope_dim < spec.head_dim:
        expected = f"less than head_dim, {spec.head_dim}, in a model with kv_latent_dim"
        raise FormatError(path, "rope_dim", spec.rope_dim, expected)
    if spec.latent_dims[0] > KEPT_MOST:
        found, most = f"{spec.kv_latent_dim} and {spec.rope_dim}", f"at most {KEPT_MOST} together"
        raise FormatError(path, "kv_latent_dim and rope_dim", found, most)
    wrong = {"qkv_bias": spec.qkv_bias, "sinks": spec.sinks, "no_rope": spec.no_rope,
             "qk_norm": spec.qk_norm, "attention_gate": spec.attention_gate,
             "linear": spec.linear}  # fmt: skip
    for field, value in wrong.items():
        if value:
            raise FormatError(path, field, value, "none in a model with kv_latent_dim")


def _check_linear(spec: ModelSpec, path: object) -> None:
    """FormatError if the sizes of linear attention contradict each other."""
    for key, field in NUMBERS.items():
        if field.startswith("linear_") and bool(getattr(spec, field)) != bool(spec.linear):
            least, most = RANGES[key]
            expected = f"{least} to {most}" if spec.linear else "none without such layers"
            raise FormatError(path, field, getattr(spec, field), expected)
    if spec.linear and spec.linear_value_heads % spec.linear_key_heads:
        found, expected = spec.linear_value_heads, f"a multiple of {spec.linear_key_heads}"
        raise FormatError(path, "linear_value_heads", found, expected)
    if spec.ssm and len(spec.linear) != spec.n_layers:
        expected = f"all {spec.n_layers} layers in a model with ssm"
        raise FormatError(path, "linear", list(spec.linear), expected)
    for field, default in DEFAULTS.items():
        if field.startswith("ssm_") and getattr(spec, field) != default and not spec.ssm:
            raise FormatError(path, field, getattr(spec, field), f"{default} without ssm")
    if spec.ssm_norm_first and not spec.ssm_norm:
        raise FormatError(path, "ssm_norm_first", True, "a norm (ssm_norm)")
    if 0 < spec.ssm_most_step < spec.ssm_least_step:
        expected = f"at least ssm_least_step, {spec.ssm_least_step}"
        raise FormatError(path, "ssm_most_step", spec.ssm_most_step, expected)
