"""Feeds and files become documents, and documents the corpus."""
