"""From logits to the next token, with the vocabulary split over nodes."""
