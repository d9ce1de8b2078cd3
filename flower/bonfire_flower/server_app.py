"""The ServerApp: Bonfire's server, fed by Flower's nodes."""

from logging import INFO

import bonfire
from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from .exchange import Exchange
from .folder import RunFolder
from .roster import Roster
from .rounds import Rounds
from .settings import Settings, read_settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = read_settings(context.run_config)
    folder = RunFolder(settings.out, settings.resume)
    server = open_server(settings, folder)
    if settings.secure and (why := server.against_secure_aggregation):
        raise ValueError(f"secure-aggregation=true, and {why}")
    folder.begin(server)
    log(
        INFO,
        "%s  %d clients  %d rounds  folder %s",
        server.strategy,
        server.clients,
        server.rounds,
        folder.path,
    )
    if server.round:
        log(INFO, "going on after round %d", server.round)
    exchange = Exchange(grid)
    Rounds(server, exchange, Roster(server, exchange, settings), folder, settings).run()
    log(INFO, "done: %s", folder.path)


def open_server(settings: Settings, folder: RunFolder) -> bonfire.Server:
    """The server at round 0, or, of a run that goes on, as its checkpoint and configuration have it."""
    told = {"overrides": settings.overrides or None, "evaluate": settings.evaluate == "server"}
    if settings.resume:
        return bonfire.Server.from_state(folder.checkpoint.read_bytes(), folder.config, **told)
    return bonfire.Server(settings.config or None, **told)
