"""Property tests: invariants over generated inputs and orders of events."""
