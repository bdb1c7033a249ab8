"""What node and operator agree on."""
