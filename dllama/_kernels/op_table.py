"""All ops: the class for each name that a task may have."""

from __future__ import annotations

from dllama._kernels.comm.ops import AllReduceOp, BroadcastOp, GatherOp
from dllama._kernels.ops.attention import AttentionOp
from dllama._kernels.ops.delta import DeltaOp, GateOp
from dllama._kernels.ops.experts import (
    DispatchOp,
    ExpertsActivateOp,
    ExpertsAddOp,
    ExpertsGatedOp,
    ExpertsSumOp,
    RouteOp,
)
from dllama._kernels.ops.head_squares import HeadSquaresOp
from dllama._kernels.ops.latent import HeadsMatmulOp, LatentOp
from dllama._kernels.ops.layer_inputs import LayerGateOp, LayerInputsOp
from dllama._kernels.ops.matmul import MatmulOp
from dllama._kernels.ops.rope import RopeOp
from dllama._kernels.ops.rowwise import (
    ActivateOp,
    AddOp,
    EmbedOp,
    EncodeOp,
    NormOp,
    ScaleOp,
    SigmoidOp,
    SoftcapOp,
)
from dllama._kernels.ops.segments import PairSumOp
from dllama._kernels.ops.squares import SquaresOp
from dllama._kernels.ops.ssm import SsmNormOp, SsmOp

OPS: dict[str, type] = {
    "embed": EmbedOp,
    "norm": NormOp,
    "matmul": MatmulOp,
    "head_squares": HeadSquaresOp,
    "gather": GatherOp,
    "rope": RopeOp,
    "latent": LatentOp,
    "heads_matmul": HeadsMatmulOp,
    "attention": AttentionOp,
    "gate": GateOp,
    "delta": DeltaOp,
    "ssm": SsmOp,
    "ssm_norm": SsmNormOp,
    "pair_sum": PairSumOp,
    "encode": EncodeOp,
    "activate": ActivateOp,
    "layer_inputs": LayerInputsOp,
    "layer_gate": LayerGateOp,
    "scale": ScaleOp,
    "sigmoid": SigmoidOp,
    "add": AddOp,
    "softcap": SoftcapOp,
    "squares": SquaresOp,
    "route": RouteOp,
    "dispatch": DispatchOp,
    "experts_gated": ExpertsGatedOp,
    "experts_activate": ExpertsActivateOp,
    "experts_sum": ExpertsSumOp,
    "experts_add": ExpertsAddOp,
    "broadcast": BroadcastOp,
    "all_reduce": AllReduceOp,
}
