"""Takes onion addresses, keys, tokens and invitations out of everything that is written."""
