"""The record of what happened: pictures of it."""
