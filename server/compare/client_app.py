"""What Flower runs as the nodes of a comparison: in its own simulation, or in our process.

A volunteer's node never loads it: its ClientApp is `client.client_app`, and knows no such messages.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federation.errors import ConscienceError
from server.compare.flower_nodes import question_of, refusal_of, reply_to
from server.compare.players import STAGE

app = ClientApp()


@app.query()
@app.train()
@app.evaluate()
def play(message: Message, _context: Context) -> Message:
    """Answer for the clients of one node."""
    with STAGE.player() as player:
        try:
            return reply_to(message, player.answer(question_of(message)))
        except ConscienceError as err:
            return refusal_of(message, err)
