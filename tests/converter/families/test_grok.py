"""Grok: both layouts of its tensors, and configs of others."""

from __future__ import annotations

import pytest
from oracle import grok

from dllama.converter import convert
from dllama.errors import DllamaError


def test_both_layouts_of_grok_give_the_same_file(tmp_path):
    short = {
        "attn.q_proj": "multi_head_attention.query", "attn.k_proj": "multi_head_attention.key",
        "attn.v_proj": "multi_head_attention.value", "attn.o_proj": "multi_head_attention.linear",
        "moe_block.gate": "router", "moe_block.experts": "moe", "pre_attn_norm.scale":
        "rms_norm.weight", "post_attn_norm.scale": "rms_norm_1.weight", "pre_moe_norm.scale":
        "rms_norm_2.weight", "post_moe_norm.scale": "rms_norm_3.weight", "model.norm.scale":
        "transformer.rms_norm.weight", "model.layers": "transformer.decoder_layer",
        "model.embed_tokens": "transformer.in_out_embed",
    }  # fmt: skip
    weights, renamed = grok.tensors(), {}
    for name, tensor in weights.items():
        for old, new in short.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    files = []
    for number, tensors in enumerate((weights, renamed)):
        source = grok.write_folder(tmp_path / f"source{number}", tensors)
        files.append(convert(source, tmp_path / f"out{number}", progress=False).output / "model.m")
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "changes", [{"residual_moe": True}, {"final_logit_softcapping": 50}, {"max_attn_value": -1}]
)
def test_other_groks_are_refused(tmp_path, changes):
    source = grok.write_folder(tmp_path / "source", grok.tensors(), **changes)
    with pytest.raises(DllamaError, match=next(iter(changes))):
        convert(source, tmp_path / "out", progress=False)
