"""Questions with known answers: does the chat find, cite, refuse and stay itself?"""
