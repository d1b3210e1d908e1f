"""Drafts for speculative decoding: who proposes ids, and how many of them pay."""

from dllama.drafts.costs import Costs
from dllama.drafts.drafter import Drafter
from dllama.drafts.ngram import NgramDrafter
from dllama.drafts.rate import Rate

__all__ = ["Costs", "Drafter", "NgramDrafter", "Rate"]
