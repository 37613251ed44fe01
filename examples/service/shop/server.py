"""A shop over HTTP: GET /teas, POST /orders {"tea": …, "grams": …}. `python3 -m shop.server DATABASE PORT_FILE`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shop.database import connect


class Shop(BaseHTTPRequestHandler):
    database = Path("shop.db")

    def do_GET(self) -> None:
        with connect(self.database) as database:
            teas: dict[str, int] = dict(database.execute("SELECT name, grams FROM teas"))
        self._answer(200, teas)

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with connect(self.database) as database:
            taken = database.execute(
                "UPDATE teas SET grams = grams - :grams WHERE name = :tea AND grams >= :grams", order
            )
            if taken.rowcount:
                database.execute("INSERT INTO orders (tea, grams) VALUES (:tea, :grams)", order)
        self._answer(201 if taken.rowcount else 409, order)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    Shop.database = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        Path(sys.argv[2]).write_text(str(server.server_port), "utf-8")
        server.serve_forever()
