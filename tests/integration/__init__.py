"""Integration tests: real parts side by side: SQLite, TLS servers, Flower processes."""
