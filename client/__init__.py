"""The volunteer's node: train at home, hand over adapters, receive the global one."""
