"""The tasks of multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).

Keys and values of all heads are products of one latent with matrices of each head, k_b and v_b.
The tasks never compute them. A query times k_b of its head is compared with latents, and mixed
latents are multiplied by v_b. So attention has one KV head, which every node has, and the KV cache
keeps one latent for a token. Prompts and single tokens take the same way, so they have the same
bits.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.graph.builder import GraphBuilder
from dllama.graph.graph import HeadParts, Heads
from dllama.graph.matrices import of_heads, whole
from dllama.model.weight_types import WeightType

# Of the norms of latents, whatever that of the other norms is.
EPSILON = 1e-6


def mix_latents(b: GraphBuilder, heads: Heads, dst: str) -> None:
    """dst = the values of each head, mixed by attention to the norm of x.

    Args:
        b: the graph.
        heads: of the node.
        dst: a buffer of floats; the first head is at column heads.offset.
    """
    spec, at = b.spec, b.at
    latent, kept = spec.kv_latent_dim, spec.latent_dims[0]
    kv = whole(spec, at + "kv_a", range(kept), range(spec.dim))
    _queries(b, kv.weight_type)
    q, latents = "q", b.buffer("latents", kept)
    b.multiply("matmul", b.input("normed", spec.dim, kv.weight_type), latents, kv)

    queries = b.buffer("queries", heads.count * kept)
    k_b = of_heads(spec, at + "k_b", b.shard.heads, latent, spec.plain_dim)
    parts = HeadParts(heads.count, latent, spec.head_dim, kept)
    b.multiply("heads_matmul", q, queries, k_b, parts=parts)
    norm = b.vector(at + "kv_a_norm", (at + "kv_a_norm", range(latent)))
    b.task("latent", q, queries, weight=norm, epsilon=EPSILON, heads=heads, latents=latents)

    mixed = b.buffer("mixed_latents", heads.count * latent)
    b.task("attention", queries, mixed, heads=replace(heads, offset=0))
    values = b.features.attention.values
    v_b = of_heads(spec, at + "v_b", b.shard.heads, values, latent)
    parts = HeadParts(heads.count, values, latent, values)
    b.multiply("heads_matmul", mixed, dst, v_b, column=heads.offset, parts=parts)


def _queries(b: GraphBuilder, other: WeightType) -> None:
    """q = the queries of the node's heads; other: type of another matrix that reads the norm."""
    spec, at, held = b.spec, b.at, b.shard.heads
    rows = range(held.start * spec.head_dim, held.stop * spec.head_dim)
    whole_latent = range(spec.q_latent_dim)
    if whole_latent:
        first, dst = whole(spec, at + "q_a", whole_latent, range(spec.dim)), "q_latent"
    else:
        first, dst = whole(spec, at + "q", rows, range(spec.dim)), "q"
    norm = at + "attention_norm" if b.features.norms_before else ""
    b.norm_for("normed", norm, [first.weight_type, other])
    src = b.input("normed", spec.dim, first.weight_type)
    b.multiply("matmul", src, b.buffer(dst, first.rows), first)
    if whole_latent:
        second = whole(spec, at + "q_b", rows, whole_latent)
        normed = b.input("q_latent_normed", spec.q_latent_dim, second.weight_type)
        weight = b.vector(at + "q_a_norm", (at + "q_a_norm", whole_latent))
        b.task("norm", dst, normed, weight=weight, epsilon=EPSILON)
        b.multiply("matmul", normed, b.buffer("q", len(rows)), second)
