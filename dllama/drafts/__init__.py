"""Drafts for speculative decoding: who proposes ids, and how many of them pay."""

from dllama.drafts.costs import Costs
from dllama.drafts.drafter import Drafter
from dllama.drafts.ngram import NgramDrafter

__all__ = ["Costs", "Drafter", "NgramDrafter"]
