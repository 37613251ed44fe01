"""Where agents dial in."""

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from kici.orchestrator.agents.socket import AgentSocket


def agent_socket(socket: AgentSocket, path: str = "/ws") -> ASGIRouteHandler:
    """The WebSocket route, without per-frame work of the framework."""

    @asgi(path, copy_scope=False)
    async def agents(scope: Scope, receive: Receive, send: Send) -> None:
        await socket(scope, receive, send)

    return agents
