"""How long the passes of a cluster take, and how much memory its nodes need, without running it."""
