"""Text to answer: feeds, corpus, index, retrieval, chat. Knows nothing of rounds."""
