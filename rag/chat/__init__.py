"""Conversations: what is remembered of them, and how one goes on."""
