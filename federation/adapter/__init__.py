"""The adapter: its format, coding, container, checks and signatures."""
