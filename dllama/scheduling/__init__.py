"""Texts in work: how one is asked for, which rows of a pass it has, and what comes of them."""
