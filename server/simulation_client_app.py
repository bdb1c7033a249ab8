"""What Flower's simulation loads in place of nodes, for a comparison. Nobody imports this file.

A volunteer's node never loads it: its ClientApp is `client.client_app`, and knows no such messages.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from server.compare.flower_nodes import question_of, reply_to
from server.compare.players import player

app = ClientApp()


@app.query()
@app.train()
@app.evaluate()
def play(message: Message, _context: Context) -> Message:
    """Answer for one client."""
    return reply_to(message, player().answer(question_of(message)))
