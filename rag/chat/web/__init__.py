"""The chat as a server on this machine: its page, its API, OpenAI's; knows nothing of the node."""
