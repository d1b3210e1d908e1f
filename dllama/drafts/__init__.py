"""Drafts for speculative decoding: who proposes ids, and how many of them pay."""
