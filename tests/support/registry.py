"""A schema registry for tests: what Confluent's own client and serializers ask of one, over HTTP, in a thread of this process."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Registered:
    """What is registered. `password`: who asks has to be `user` with it. `away`: it answers 503."""

    def __init__(self, first: int = 1) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.versions: dict[str, list[int]] = {}  # subject → ids
        self.first = first
        self.password: str | None = None
        self.away = False
        self.closed = False  # nothing may be registered
        self.strict = False  # nothing incompatible may be registered
        self.asked: list[str] = []
        self.url = ""

    def known(self, subject: str, schema: dict[str, Any]) -> dict[str, Any] | None:
        ids = self.versions.get(subject, [])
        kept = _plain(schema)
        for known in self.schemas:
            if known["id"] in ids and _plain(known) == kept:
                return {**known, "subject": subject, "version": ids.index(known["id"]) + 1}
        return None

    def compatible(self, subject: str, schema: dict[str, Any]) -> bool:
        """As far as the tests need it: another kind or another name is another thing."""
        ids = self.versions.get(subject, [])
        last = next((each for each in self.schemas if ids and each["id"] == ids[-1]), None)
        return last is None or _name(last) == _name(schema)

    def register(self, subject: str, schema: dict[str, Any]) -> dict[str, Any]:
        kept = _plain(schema)
        for known in self.schemas:
            if {key: known[key] for key in kept if key in known} == kept:
                found = known
                break
        else:
            found = {**kept, "id": self.first + len(self.schemas), "guid": str(uuid.uuid4())}
            self.schemas.append(found)
        ids = self.versions.setdefault(subject, [])
        if found["id"] not in ids:
            ids.append(found["id"])
        return {**found, "subject": subject, "version": ids.index(found["id"]) + 1}

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == ["schemas", "types"]:
            return 200, ["AVRO", "JSON", "PROTOBUF"]
        if parts[:2] in (["schemas", "ids"], ["schemas", "guids"]):
            key = "id" if parts[1] == "ids" else "guid"
            for schema in self.schemas:
                if str(schema[key]) == parts[2]:
                    return 200, schema
            return 404, {"error_code": 40403, "message": "Schema not found"}
        if parts[0] == "subjects" and len(parts) == 3 and method == "POST":
            if self.strict and not self.compatible(parts[1], body):
                return 409, {
                    "error_code": 409,
                    "message": "Schema being registered is incompatible with an earlier schema",
                }
            if self.closed:
                return 403, {"error_code": 40301, "message": "User is denied operation Write on Subject"}
            return 200, self.register(parts[1], body)
        if parts[0] == "subjects" and len(parts) == 2 and method == "POST":
            known = self.known(parts[1], body)
            return (200, known) if known is not None else (404, {"error_code": 40403, "message": "Schema not found"})
        if parts[0] == "compatibility" and method == "POST":
            if parts[2] not in self.versions:
                return 404, {"error_code": 40401, "message": "Subject not found"}
            return 200, {"is_compatible": self.compatible(parts[2], body)}
        if parts[0] == "subjects" and len(parts) == 4:
            ids = self.versions.get(parts[1], [])
            number = len(ids) if parts[3] == "latest" else int(parts[3])
            if 0 < number <= len(ids):
                schema = next(each for each in self.schemas if each["id"] == ids[number - 1])
                return 200, {**schema, "subject": parts[1], "version": number}
            return 404, {"error_code": 40402, "message": "Version not found"}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("schema", "schemaType", "references") if schema.get(key) is not None}


def _name(schema: dict[str, Any]) -> tuple[Any, Any]:
    if schema.get("schemaType") == "PROTOBUF":
        return "PROTOBUF", None
    said = json.loads(schema["schema"])
    return schema.get("schemaType") or "AVRO", said.get("name", said.get("title")) if isinstance(said, dict) else said


@contextmanager
def serving(registered: Registered | None = None) -> Iterator[Registered]:
    known = registered or Registered()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            known.asked.append(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            wanted = base64.b64encode(f"user:{known.password}".encode()).decode()
            if known.away:
                status, found = 503, {"error_code": 50301, "message": "away"}
            elif known.password is not None and self.headers.get("Authorization") != f"Basic {wanted}":
                status, found = 401, {"error_code": 401, "message": "Unauthorized"}
            else:
                status, found = known.answer(self.command, urlsplit(self.path).path, body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        known.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()
