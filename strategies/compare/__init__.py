"""Strategies compared on equal terms: what varies, rounds in memory, figures. No model, no I/O."""
