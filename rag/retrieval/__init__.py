"""The corpus becomes chunks, words and vectors; a question becomes passages."""
