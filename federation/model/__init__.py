"""The base model: which one, loading it, LoRA on it, its loss."""
