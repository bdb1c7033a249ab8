"""The operator: collect, screen, merge, gate, sign, publish."""
