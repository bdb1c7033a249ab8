"""End-to-end tests: what a person types, as real processes."""
