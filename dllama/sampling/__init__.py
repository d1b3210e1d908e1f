"""From logits to the next token, with the vocabulary sharded over nodes."""
