"""What runs a language model: token ids in, token ids out."""
