"""Text and token ids: tokenizers, chat templates and streamed text."""
