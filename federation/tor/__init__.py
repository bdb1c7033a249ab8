"""The way through Tor: keys, tor processes, SOCKS, forwarder, diagnosis."""
