"""Runs in MongoDB, in the form of Sacred's MongoObserver that Omniboard and Incense read; every write may be repeated.

    runs      one document a run: config, info, status, host, experiment, artifacts; `run_uid` is our own key
    metrics   one document a run and metric: steps, values, timestamps, as long as each other (no timestamps of a run
              whose metrics.json is lost)
    fs.*      GridFS: sources and artifacts

A write whose answer was lost is made again, so each must do nothing the second time: a run is found by `run_uid` (a
unique index), documents of metrics and files have ids made from what they hold, and points are appended only to a
series of the length that the writer expects. The series of `info` are left out: they are in `metrics`, once.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import ConfigError

SCHEMES = ("mongodb", "mongodb+srv")
HOST = r"(?:\[[\w:.%]+\]|[\w.%-]+)(?::\d+)?"
READABLE = re.compile(  # as pymongo divides it: options begin at the first "?", the database at the first "/"
    rf"mongodb(?:\+srv)?://(?:[^/?]*@)?(?P<hosts>{HOST}(?:,{HOST})*)"
    r"(?:/(?P<database>[^/?\\. \"$@]*))?(?:\?(?:\w+=.*)?)?",
    re.I | re.S,
)
LOCAL_MONGO = "mongodb://127.0.0.1:27017"  # where --mongo has no value
MONGO_VARIABLE = "SACRED_MONGO_URL"  # the environment's, in place of --mongo
DATABASE = "sacred"  # where the address names none
PATIENCE_MS = 5000  # how long a server may take to be found, and to answer
BATCH = 5000  # points of a metric in one write
CHUNK = 15 << 20  # bytes of a file in one document, of which MongoDB takes 16 MiB
FORMAT = "MongoObserver-0.7.0"  # of Sacred 0.8
TIMES = ("start_time", "stop_time", "heartbeat", "queue_time")
ENDS = ("stop_time", "fail_trace", "result")  # what a run has that has ended
MIME = {".th": "application/octet-stream", ".yaml": "text/plain", ".zip": "application/zip"}


class Address(NamedTuple):
    """A database. `url` holds the password: it is handed to pymongo and shown nowhere."""

    url: str
    database: str
    shown: str  # scheme, hosts and database

    def __repr__(self) -> str:
        return f"Address({self.shown})"


class Column(NamedTuple):
    """The points of a metric as they were logged. `steps` is filled last: what it holds, the others hold."""

    steps: list[int]
    values: list[float]
    timestamps: list[datetime]  # UTC, without a zone


@dataclass
class Snapshot:
    """A run as it is to stand in the database."""

    uid: str
    document: dict[str, Any]  # in Sacred's form, without _id, artifacts' and sources' ids and info's list of metrics
    metrics: Mapping[str, Column]
    sources: Sequence[tuple[str, Path]] = ()  # name in the record, file
    artifacts: Sequence[tuple[str, Path]] = ()
    # file -> its id, of those already in the database
    stored: dict[tuple[str, Path], Any] = field(default_factory=dict)


# --- addresses ---
def is_mongo(source: str) -> bool:
    return source.partition("://")[0].lower() in SCHEMES and "://" in source


def without_credentials(url: str) -> str:
    """Scheme, hosts and database of the URL; mongodb://*** where it cannot be told what is a password."""
    found = READABLE.fullmatch(url)
    scheme = url.partition("://")[0]
    return f"{scheme}://{found['hosts']}/{found['database'] or ''}" if found else f"{scheme}://***"


def address(url: str, key: str = "--mongo") -> Address:
    """Checks mongodb://[user:password@]host[:port][/DB][?options] without connecting.

    :param key: where the user wrote it, for messages.
    :raises ConfigError: which never quotes the password, nor has a cause that does.
    """
    wanted = "an address like mongodb://host:27017/DB is wanted; user and password come before the host, %-encoded"
    if not is_mongo(url):
        said = "" if "@" in url else f" = {url!r}"
        raise ConfigError(f"{key}{said}: {wanted}")
    shown = without_credentials(url)
    try:
        import pymongo.uri_parser
    except ModuleNotFoundError:
        raise ConfigError(f"{key} = {shown}: MongoDB needs pymongo: pip install -e '.[mongo]'") from None
    found = READABLE.fullmatch(url)
    if found is None:
        raise ConfigError(f"{key} = {shown}: {wanted}")
    if url.lower().startswith("mongodb://"):  # the other scheme asks a name server
        try:
            pymongo.uri_parser.parse_uri(url, warn=True)
        except Exception as error:  # pymongo's own, ValueError, or OSError for the file of an option
            problem = f"it cannot be read ({type(error).__name__}); user and password are written %-encoded"
            raise ConfigError(f"{key} = {shown}: {problem}") from None
    name = found["database"]
    return Address(url, name or DATABASE, shown if name else shown + DATABASE)


def connect(where: Address, patience_ms: int = PATIENCE_MS) -> Any:
    """A client, which connects when it is first used. Options of the URL go before ours.

    :raises ConfigError: where pymongo cannot read the address.
    """
    import pymongo

    ours = {name: patience_ms for name in ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")}
    given = where.url.partition("?")[2].lower()
    options: dict[str, Any] = {name: value for name, value in ours.items() if f"{name.lower()}=" not in given}
    if "journal=" not in given and "w=" not in given:
        options["journal"] = True  # what was acknowledged survives a crash of the server
    try:
        return pymongo.MongoClient(where.url, appname="epymarl-mmsa", **options)
    except Exception as error:
        raise ConfigError(f"{where.shown}: this is no address of a database ({type(error).__name__})") from None


def hide(text: str) -> str:
    """The text without the credentials of any address in it. What stands between an address and the last at sign of its
    line goes with it: a password may hold anything."""
    scheme, rest = r"mongodb(?:\+srv)?://", r"[^\s'\"]*(?<![:;,.])"
    return re.sub(
        rf"{scheme}(?:(?:(?!{scheme}).)*@)?{rest}", lambda found: without_credentials(found[0]), text, flags=re.I
    )


def without_tokens(run: Mapping[str, Any]) -> dict[str, Any]:
    """A record without user, password or token in the addresses of its code, where git may have any of them.

    :param run: as in run.json.
    """
    experiment = run.get("experiment") or {}
    code = [
        {**one, "url": re.sub(r"(?<=://)[^/]*@", "", str(one["url"]))} if one.get("url") else one
        for one in experiment.get("repositories") or []
    ]
    return {**run, "experiment": {**experiment, "repositories": code}} if code else dict(run)


def describe(error: BaseException) -> str:
    """What went wrong, in words that cannot hold the password: the kind of the error and the server's code."""
    code = getattr(error, "code", None)
    names = {13: "not allowed", 18: "user or password is wrong", 8000: "user or password is wrong"}
    words = f", code {code}" if isinstance(code, int) else ""
    return type(error).__name__ + words + (f": {names[code]}" if code in names else "")


# --- writing ---
class Store:
    """One database. Raises what pymongo raises; the caller tries again, with the same Snapshot or a later one."""

    def __init__(self, client: Any, name: str) -> None:
        import gridfs

        self.database = client[name]
        self.runs, self.metrics = self.database["runs"], self.database["metrics"]
        self.files = gridfs.GridFS(self.database)
        self.ids: dict[str, int] = {}  # uid -> _id
        self.lengths: dict[str, dict[str, int]] = {}  # uid -> metric -> points that the database is known to have
        self.prepared = False

    def save(self, run: Snapshot) -> int:
        """Brings the database to what the snapshot says; the number of points that were new to it."""
        _id = self._register(run)
        for entry in (*run.sources, *run.artifacts):
            if entry not in run.stored:
                run.stored[entry] = self._store_file(run, *entry)
        new = self._append(run, _id)
        mine, now = {"_id": _id, "run_uid": run.uid}, self._entry(run)
        gone = {key: "" for key in ENDS if key not in now}  # of an end that it went on from
        change = {"$set": now} | ({"$unset": gone} if gone else {})
        if self.runs.update_one(mine | _no_later_than(now), change).matched_count == 0:
            if self.runs.find_one(mine, {"_id": 1}) is None:
                del self.ids[run.uid], self.lengths[run.uid]  # the run was deleted, or its database
                run.stored.clear()
                return self.save(run)
        return new

    def cut(self, run: Snapshot, points: Mapping[str, int]) -> None:
        """Leaves so many points of each metric, and no word of an end: the run goes on from there."""
        found = self.runs.find_one({"run_uid": run.uid}, {"_id": 1})
        if found is None:
            return
        self.ids[run.uid] = found["_id"]
        for name, length in self._count(found["_id"]).items():
            if length > points.get(name, 0):
                self._shorten(run, name, points.get(name, 0))
        self.runs.update_one(found, {"$unset": dict.fromkeys(ENDS, "")})
        self.lengths.pop(run.uid, None)

    def _shorten(self, run: Snapshot, name: str, kept: int) -> None:
        own = {"_id": self._metric_id(run, name)}
        if kept == 0:
            self.metrics.delete_one(own)
        else:
            self.metrics.update_one(own, {"$push": {key: {"$each": [], "$slice": kept} for key in Column._fields}})

    def _forget_what_was_redone(self, run: Snapshot, run_id: int) -> None:
        """Cuts points that the run has logged anew since, at another time: it went on from before them."""
        stored = self.runs.find_one({"_id": run_id}, {"info.resumed": 1}) or {}
        starts = [len((entry.get("info") or {}).get("resumed") or []) for entry in (stored, run.document)]
        if starts[0] >= starts[1]:
            return
        for entry in self.metrics.find({"run_id": run_id}, {"name": 1, "timestamps": 1}):
            times = run.metrics[entry["name"]].timestamps if entry["name"] in run.metrics else []
            pairs = enumerate(zip(entry["timestamps"], times, strict=False))
            if (kept := next((n for n, (old, new) in pairs if _apart(old, new)), None)) is not None:
                self._shorten(run, entry["name"], kept)

    def _entry(self, run: Snapshot) -> dict[str, Any]:
        entry = dict(run.document)
        entry["experiment"] = entry.get("experiment", {}) | {
            "sources": [[name, run.stored[name, path]] for name, path in run.sources]
        }
        entry["artifacts"] = [{"name": name, "file_id": run.stored[name, path]} for name, path in run.artifacts]
        listed = [{"name": name, "id": str(self._metric_id(run, name))} for name in run.metrics]
        return valid(entry | {"info": entry.get("info", {}) | {"metrics": listed}})

    def _register(self, run: Snapshot) -> int:
        """The run's _id: the next whole number, as Sacred and Omniboard count."""
        from pymongo import DESCENDING
        from pymongo.errors import DuplicateKeyError

        if not self.prepared:
            self.runs.create_index("run_uid", unique=True, sparse=True)
            self.metrics.create_index("run_id")
            self.prepared = True
        while run.uid not in self.ids:
            found = self.runs.find_one({"run_uid": run.uid}, {"_id": 1})
            if found is None:
                last = self.runs.find_one({"_id": {"$type": "number"}}, {"_id": 1}, sort=[("_id", DESCENDING)])
                found = {"_id": int(last["_id"]) + 1 if last else 1}
                empty = {"info": {}, "artifacts": [], "resources": [], "captured_out": ""}
                document = valid({key: value for key, value in run.document.items() if key != "experiment"})
                try:
                    self.runs.insert_one(document | empty | found | {"run_uid": run.uid})
                except DuplicateKeyError:  # another run has taken the number, or this one did it before
                    continue
            self.ids[run.uid] = found["_id"]
        return self.ids[run.uid]

    def _append(self, run: Snapshot, run_id: int) -> int:
        from pymongo import InsertOne, UpdateOne
        from pymongo.errors import BulkWriteError

        if run.uid not in self.lengths:
            self._forget_what_was_redone(run, run_id)
            self.lengths[run.uid] = self._count(run_id)
        known = self.lengths[run.uid]
        before = sum(known.values())
        while behind := {name: known.get(name, 0) for name, c in run.metrics.items() if known.get(name, 0) < len(c[0])}:
            writes: list[Any] = []
            ends = {name: min(start + BATCH, len(run.metrics[name].steps)) for name, start in behind.items()}
            for name, start in behind.items():
                own = {"_id": self._metric_id(run, name)}
                parts = {key: list(v[start : ends[name]]) for key, v in run.metrics[name]._asdict().items()}
                if start == 0:
                    writes.append(InsertOne(own | {"run_id": run_id, "name": name} | parts))
                else:
                    push = {key: {"$each": values} for key, values in parts.items()}
                    writes.append(UpdateOne(own | {"steps": {"$size": start}}, {"$push": push}))
            try:
                result = self.metrics.bulk_write(writes, ordered=False)
                met = result.matched_count + result.inserted_count == len(writes)
            except BulkWriteError as error:
                if any(wrong.get("code") != 11000 for wrong in error.details.get("writeErrors", [{}])):
                    raise
                met = False
            if met:
                known |= ends
            else:  # an answer was lost, another process was faster, or the server came back without its last writes
                found = self._count(run_id)
                if found == known:
                    raise RuntimeError("the server takes no points, and does not say why")
                known.clear()
                known |= found
        return sum(known.values()) - before

    def _metric_id(self, run: Snapshot, name: str) -> Any:
        return object_id(run.uid, str(self.ids[run.uid]), name)

    def _count(self, run_id: int) -> dict[str, int]:
        """Metric -> points in the database."""
        size = {"$project": {"name": 1, "points": {"$size": "$steps"}}}
        return {
            entry["name"]: entry["points"] for entry in self.metrics.aggregate([{"$match": {"run_id": run_id}}, size])
        }

    def _store_file(self, run: Snapshot, name: str, path: Path) -> Any:
        """The id of the file in GridFS, made from its name and content: the same sources are kept once for all runs."""
        from gridfs.errors import FileExists

        content = path.read_bytes()
        artifact = (name, path) in run.artifacts
        filename = f"artifact://runs/{self.ids[run.uid]}/{name}" if artifact else name
        _id = object_id(filename, hashlib.sha256(content).hexdigest())
        if not self.files.exists(_id):
            self.files.delete(_id)  # the pieces of a write that was cut off
            kind = MIME.get(path.suffix) or mimetypes.guess_type(path.name)[0]
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            size = min(max(len(content), 1), CHUNK)  # Omniboard hands out a file's first chunk only
            fields = {"chunkSize": size, "filename": filename, "contentType": kind, "md5": digest}
            with suppress(FileExists):  # somebody else was faster with the same content
                self.files.put(content, _id=_id, **fields)
        return _id

    def remove(self, run_id: Any) -> None:
        """Deletes the run, its metrics and all versions of its artifacts. Sources stay: other runs may share them."""
        run = self.runs.find_one({"_id": run_id}, {"artifacts": 1}) or {}
        named = {"filename": {"$regex": f"^artifact://runs/{re.escape(str(run_id))}/"}}
        listed = [artifact["file_id"] for artifact in run.get("artifacts") or []]
        for file_id in {*listed, *(file._id for file in self.files.find(named))}:
            self.files.delete(file_id)
        self.metrics.delete_many({"run_id": run_id})
        self.runs.delete_one({"_id": run_id})


def _apart(old: Any, new: Any) -> bool:
    """Whether two times are not one and the same, at BSON's resolution; of what is no time (parse_time): no."""
    return isinstance(old, datetime) and isinstance(new, datetime) and abs(old - new) >= timedelta(milliseconds=1)


def _no_later_than(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A filter: `sync` of a run that went on, or ended, since its files were read must not set its status back."""
    if entry.get("stop_time"):
        starts = (entry.get("info") or {}).get("resumed")
        later = f"info.resumed.{len(starts) if isinstance(starts, list) else 0}"  # a start after the end that was read
        return {later: {"$exists": False}}
    beat = entry.get("heartbeat")
    return {"$or": [{"heartbeat": None}, {"heartbeat": {"$lt": beat}}, {"heartbeat": beat, "stop_time": None}]}


def object_id(*words: str) -> Any:
    """The same id for the same words."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256("\0".join(words).encode()).digest()[:12])


def valid(value: Any) -> Any:
    """The value with what BSON refuses made into text: dots and dollars in keys as Sacred does it, whole numbers beyond
    64 bits, bytes of the command line that are no UTF-8."""
    if isinstance(value, Mapping):
        keys = {key: ("@" + str(key)[1:] if str(key).startswith("$") else str(key)).replace(".", ",") for key in value}
        return {keys[key]: valid(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [valid(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


# --- what is written ---
def run_uid(run: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The same for a run whenever it is uploaded and by whom: of configuration, host and beginning (in microseconds).

    :param run: as in run.json.
    """
    if run.get("run_uid"):  # noted when the configuration of a resumed run was changed
        return str(run["run_uid"])
    host = (run.get("host") or {}).get("hostname")
    facts = json.dumps([run.get("start_time"), host, config], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def document(run: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The run's document, without what depends on the database. :param run: as in run.json."""
    entry = {key: value for key, value in without_tokens(run).items() if key not in ("artifacts", "resources")}
    entry |= {key: parse_time(entry[key]) for key in TIMES if entry.get(key)}
    return (
        {"format": FORMAT, "resources": [], "captured_out": ""} | entry | {"config": dict(config), "info": dict(facts)}
    )


def parse_time(value: Any) -> Any:
    """Sacred's ISO text as a datetime (UTC, without a zone); what is none stays as it is."""
    try:
        return datetime.fromisoformat(value).replace(tzinfo=None)
    except (TypeError, ValueError):
        return value


def files_of(folder: Path, run: Mapping[str, Any]) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Sources and artifacts that the record in this folder names and that are still there. A record from elsewhere may
    name any file of the reader's: only what lies beside it counts."""
    sources = list(_there(folder.parent, (run.get("experiment") or {}).get("sources") or []))
    return sources, list(_there(folder, [[name, name] for name in dict.fromkeys(run.get("artifacts") or [])]))


def _there(folder: Path, entries: Sequence[Sequence[str]]) -> Iterator[tuple[str, Path]]:
    for name, path in entries:
        file = folder / path
        if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
            yield name, file
