"""`flower-server compare`: cells of a comparison, run, kept and told."""
