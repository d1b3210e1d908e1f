"""One node at work: its executor, its sequences, what they cost."""
