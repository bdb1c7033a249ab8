"""What Flower's simulation loads in the server's place: one run is one cell of a comparison.

    cd server/simulation && flwr run . local --stream --run-config "strategy='flexlora' seed=1"

Nobody imports this file.
"""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.cli_output import say
from server.compare import one_cell

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the cell that the run-config asks for."""
    record = one_cell.run(grid, context.run_config, say)
    last = record["rounds"][-1]
    say(f"loss {last['loss']:.6f}, worst part {last['worst']:.6f}")
