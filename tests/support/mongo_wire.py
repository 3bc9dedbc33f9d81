"""A MongoDB server for tests, on a real socket, that can be stopped, restarted, slowed down and made to fail.

`Wire` speaks the protocol (OP_MSG, and OP_QUERY for the first hello) and makes the faults. Behind it is `StandIn`,
which answers from mongomock, or `Forward`, which hands requests on to a real mongod: the same tests run against both.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import bson
import mongomock
import pymongo
import pymongo.errors

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME, EXHAUST_ALLOWED = 2, 1 << 16
HANDSHAKE = {"hello", "ismaster", "isMaster", "ping", "endSessions", "buildInfo", "saslStart", "saslContinue"}
Document = dict[str, Any]


class Backend(Protocol):
    def open(self) -> Any:
        """What a connection needs."""

    def answer(self, connection: Any, message: bytes) -> bytes | None:
        """The reply, or None where none is wanted."""

    def close(self, connection: Any) -> None: ...


class Wire:
    """A TCP server before a backend. It keeps its port over restarts; what the backend holds stays.

    Faults, each for commands that are not part of a handshake: `delay` seconds before each answer; the next
    `lose_answers` are carried out, but the connection breaks before the answer; the next `refusals` are answered
    with the server error `refusal_code` and not carried out.
    """

    def __init__(self, backend: Backend, port: int = 0) -> None:
        self.backend = backend
        self.port = port
        self.delay = 0.0
        self.lose_answers = self.refusals = 0
        self.refusal_code = 11600  # InterruptedAtShutdown
        self.commands: list[str] = []  # names of those carried out or refused
        self.lost = 0  # answers
        self.changed = threading.Condition()
        self.listener: socket.socket | None = None
        self.connections: set[socket.socket] = set()
        self.released = threading.Event()  # ends every delay
        self.start()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self.listener is None
        self.released.clear()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def stop(self) -> None:
        """Closes the port and breaks every connection."""
        if self.listener is None:
            return
        listener, self.listener = self.listener, None
        self.released.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self.changed:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def wait(self, condition: Any, timeout: float = 30.0) -> None:
        """Until condition() holds, which is asked whenever a command or a connection has come."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"nothing came; so far: {self.commands[-10:]}"

    # --- connections ---
    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, listener), daemon=True).start()

    def _serve(self, client: socket.socket, listener: socket.socket) -> None:
        with self.changed:
            self.connections.add(client)
            if self.listener is not listener:
                client.close()
        behind = None
        try:
            behind = self.backend.open()
            while (message := read_message(client)) is not None:
                reply = self._faulty(behind, message)
                if reply is not None:
                    client.sendall(reply)
        except (OSError, _Lost):
            pass
        finally:
            with self.changed:
                self.connections.discard(client)
                self.changed.notify_all()
            client.close()
            if behind is not None:
                self.backend.close(behind)

    def _faulty(self, behind: Any, message: bytes) -> bytes | None:
        name = next(iter(parse(message)), "")
        if name in HANDSHAKE:
            return self.backend.answer(behind, message)
        with self.changed:
            refused, lost = self.refusals > 0, self.lose_answers > 0
            self.refusals -= refused
            self.lose_answers -= lost and not refused
        if self.delay:
            self.released.wait(self.delay)
        error = {"ok": 0.0, "errmsg": "made to fail", "code": self.refusal_code, "codeName": "Test"}
        reply = pack(message, error) if refused else self.backend.answer(behind, message)
        with self.changed:
            self.commands.append(name)
            self.lost += lost and not refused
            self.changed.notify_all()
        if lost and not refused:
            raise _Lost
        return reply


class _Lost(Exception):
    """The connection breaks now."""


# --- the protocol ---
def read_message(connection: socket.socket) -> bytes | None:
    """The next whole message; None at the end."""
    head = _read(connection, 4)
    return None if head is None else head + (_read(connection, struct.unpack("<i", head)[0] - 4) or b"")


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


def parse(message: bytes) -> Document:
    """The command, its document sequences put into it."""
    code = struct.unpack_from("<i", message, 12)[0]
    if code == OP_QUERY:
        start = message.index(b"\0", 20) + 1 + 8
        return bson.decode(message[start : start + struct.unpack_from("<i", message, start)[0]])
    assert code == OP_MSG, f"opcode {code}"
    command: Document = {}
    position = 20
    end = len(message) - (4 if struct.unpack_from("<I", message, 16)[0] & 1 else 0)  # a checksum
    while position < end:
        kind, size = message[position], struct.unpack_from("<i", message, position + 1)[0]
        body = message[position + 1 : position + 1 + size]
        if kind == 0:
            command = bson.decode(body) | command
        else:
            name, _, documents = body[4:].partition(b"\0")
            command[name.decode()] = bson.decode_all(documents)
        position += 1 + size
    names = list(command)
    for name in ("documents", "updates", "deletes"):  # the command's own name comes first
        if names[0] == name:
            command[name] = command.pop(name)
            names = list(command)
    return command


def pack(request: bytes, document: Mapping[str, Any]) -> bytes:
    """A reply in the form of the request."""
    request_id, _, code = struct.unpack_from("<iii", request, 4)
    body = bson.encode(document)
    if code == OP_QUERY:
        body, reply_code = struct.pack("<iqii", 8, 0, 0, 1) + body, OP_REPLY
    else:
        body, reply_code = struct.pack("<Ib", 0, 0) + body, OP_MSG
    return struct.pack("<iiii", 16 + len(body), 0, request_id, reply_code) + body


# --- what answers ---
class StandIn:
    """Answers from mongomock. One command at a time."""

    def __init__(self) -> None:
        self.client: Any = mongomock.MongoClient(tz_aware=False)
        self.lock = threading.Lock()

    def open(self) -> Any:
        return object()

    def close(self, connection: Any) -> None:
        pass

    def answer(self, connection: Any, message: bytes) -> bytes | None:
        command = parse(message)
        name = next(iter(command))
        with self.lock:
            try:
                handler = getattr(self, "_" + name.lower(), None)
                if handler is None:
                    reply = {"ok": 0.0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"no such command: {name}"}
                else:
                    reply = {"ok": 1.0} | handler(command, self.client[command.get("$db", "admin")])
            except pymongo.errors.OperationFailure as error:
                reply = {"ok": 0.0, "code": error.code or 2, "errmsg": str(error)}
            except Exception as error:  # a client sees it, instead of waiting for ever
                reply = {"ok": 0.0, "code": 8, "errmsg": f"{type(error).__name__}: {error}"}
        no_answer = struct.unpack_from("<I", message, 16)[0] & MORE_TO_COME and b"\xdd\x07\0\0" == message[12:16]
        return None if no_answer else pack(message, reply)

    # --- handshake ---
    def _hello(self, command: Document, database: Any) -> Document:
        sizes = {"maxBsonObjectSize": 1 << 24, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000}
        wire = {"minWireVersion": 0, "maxWireVersion": 17, "readOnly": False}
        return {"ismaster": True, "isWritablePrimary": True, "helloOk": True} | sizes | wire

    _ismaster = _hello

    def _ping(self, command: Document, database: Any) -> Document:
        return {}

    _endsessions = _killcursors = _ping

    def _buildinfo(self, command: Document, database: Any) -> Document:
        return {"version": "6.0.0", "versionArray": [6, 0, 0, 0]}

    def _saslstart(self, command: Document, database: Any) -> Document:
        raise pymongo.errors.OperationFailure("Authentication failed.", 18)

    # --- data ---
    def _insert(self, command: Document, database: Any) -> Document:
        collection, wrong, done = database[command["insert"]], [], 0
        for index, document in enumerate(command["documents"]):
            try:
                collection.insert_one(document)
                done += 1
            except pymongo.errors.DuplicateKeyError as error:
                wrong.append({"index": index, "code": 11000, "errmsg": str(error)})
                if command.get("ordered", True):
                    break
        return {"n": done} | ({"writeErrors": wrong} if wrong else {})

    def _update(self, command: Document, database: Any) -> Document:
        collection, upserted, wrong = database[command["update"]], [], []
        n = changed = 0
        for index, one in enumerate(command["updates"]):
            replaces = not any(key.startswith("$") for key in one["u"])
            write = (
                collection.replace_one
                if replaces
                else getattr(collection, "update_many" if one.get("multi") else "update_one")
            )
            try:
                result = write(one["q"], one["u"], upsert=one.get("upsert", False))
            except pymongo.errors.DuplicateKeyError as error:
                wrong.append({"index": index, "code": 11000, "errmsg": str(error)})
                continue
            n += result.matched_count or (result.upserted_id is not None)
            changed += result.modified_count
            if result.upserted_id is not None:
                upserted.append({"index": index, "_id": result.upserted_id})
        reply: Document = {"n": n, "nModified": changed}
        return reply | ({"upserted": upserted} if upserted else {}) | ({"writeErrors": wrong} if wrong else {})

    def _delete(self, command: Document, database: Any) -> Document:
        collection, n = database[command["delete"]], 0
        for one in command["deletes"]:
            delete = collection.delete_one if one.get("limit") else collection.delete_many
            n += delete(one["q"]).deleted_count
        return {"n": n}

    def _find(self, command: Document, database: Any) -> Document:
        limit = abs(command.get("limit") or 0)
        found = database[command["find"]].find(command.get("filter") or {}, command.get("projection") or None)
        found = found.sort(list(command["sort"].items())) if command.get("sort") else found
        return _cursor(command, "find", list(found.skip(command.get("skip") or 0).limit(limit)))

    def _aggregate(self, command: Document, database: Any) -> Document:
        return _cursor(command, "aggregate", list(database[command["aggregate"]].aggregate(command["pipeline"])))

    def _count(self, command: Document, database: Any) -> Document:
        return {"n": database[command["count"]].count_documents(command.get("query") or {})}

    def _distinct(self, command: Document, database: Any) -> Document:
        return {"values": database[command["distinct"]].distinct(command["key"], command.get("query") or {})}

    def _findandmodify(self, command: Document, database: Any) -> Document:
        collection = database[command.get("findAndModify") or command["findandmodify"]]
        query, new = command.get("query") or {}, bool(command.get("new"))
        if command.get("remove"):
            return {"value": collection.find_one_and_delete(query)}
        options = {"upsert": bool(command.get("upsert")), "return_document": new}
        return {"value": collection.find_one_and_update(query, command["update"], **options)}

    def _createindexes(self, command: Document, database: Any) -> Document:
        for index in command["indexes"]:
            options = {key: index[key] for key in ("unique", "sparse", "name") if key in index}
            database[command["createIndexes"]].create_index(list(index["key"].items()), **options)
        return {}

    def _listindexes(self, command: Document, database: Any) -> Document:
        indexes = database[command["listIndexes"]].index_information()
        found = [{"name": name, "key": dict(index["key"]), "v": 2} for name, index in indexes.items()]
        return _cursor(command, "listIndexes", found)

    def _listcollections(self, command: Document, database: Any) -> Document:
        names = [{"name": name, "type": "collection"} for name in database.list_collection_names()]
        return _cursor(command, "listCollections", names)

    def _listdatabases(self, command: Document, database: Any) -> Document:
        return {"databases": [{"name": n, "sizeOnDisk": 1, "empty": False} for n in self.client.list_database_names()]}

    def _drop(self, command: Document, database: Any) -> Document:
        database.drop_collection(command["drop"])
        return {}

    def _dropdatabase(self, command: Document, database: Any) -> Document:
        self.client.drop_database(command["$db"])
        return {}


def _cursor(command: Document, name: str, documents: list[Document]) -> Document:
    """All at once: no test asks for more than a message holds."""
    return {"cursor": {"id": bson.Int64(0), "ns": f"{command['$db']}.{command[name]}", "firstBatch": documents}}


class Forward:
    """Hands requests to a real server without authentication; one socket for each of the client's."""

    def __init__(self, host: str, port: int) -> None:
        self.where = host, port

    def open(self) -> socket.socket:
        return socket.create_connection(self.where, timeout=30)

    def close(self, connection: socket.socket) -> None:
        connection.close()

    def answer(self, connection: socket.socket, message: bytes) -> bytes | None:
        flags = 0
        if struct.unpack_from("<i", message, 12)[0] == OP_MSG:
            flags = struct.unpack_from("<I", message, 16)[0] & ~EXHAUST_ALLOWED  # one answer for each request
            message = message[:16] + struct.pack("<I", flags) + message[20:]
        connection.sendall(message)
        return None if flags & MORE_TO_COME else read_message(connection)


@contextmanager
def server(folder: Path) -> Iterator[Wire]:
    """The real server of MONGO_URL or of a mongod on the PATH, else the stand-in; behind a Wire.

    :param folder: where a mongod keeps its data.
    """
    process = None
    backend: Backend
    if url := os.environ.get("MONGO_URL"):
        parts = urlsplit(url)
        backend = Forward(parts.hostname or "127.0.0.1", parts.port or 27017)
    elif program := shutil.which("mongod"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [program, "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--quiet"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        with pymongo.MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=60_000) as client:
            client.admin.command("ping")
        backend = Forward("127.0.0.1", port)
    else:
        backend = StandIn()
    wire = Wire(backend)
    try:
        yield wire
    finally:
        wire.stop()
        if process is not None:
            process.terminate()
            process.wait()


if __name__ == "__main__":  # python tests/support/mongo_wire.py [PORT]: a stand-in to look at with other programs
    import sys

    print(Wire(StandIn(), int(sys.argv[1]) if sys.argv[1:] else 0).url, flush=True)
    threading.Event().wait()
