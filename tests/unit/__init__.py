"""Unit tests: one idea each, no child processes but the entry points, no network."""
