"""Addresses, credentials and the form of documents; the writing itself is in test_recording.py."""

from __future__ import annotations

from typing import Any

import pytest

from utils import mongo
from utils.config import ConfigError
from utils.mongo import address, hide, is_mongo, run_uid, valid


@pytest.mark.parametrize(
    ("url", "database", "shown"),
    [
        ("mongodb://host:1/lab", "lab", "mongodb://host:1/lab"),
        ("mongodb://host", "sacred", "mongodb://host/sacred"),
        ("mongodb://host/", "sacred", "mongodb://host/sacred"),
        ("mongodb://me:s3cret@a,b:2/lab?authSource=admin", "lab", "mongodb://a,b:2/lab"),
    ],
)
def test_addresses(url: str, database: str, shown: str) -> None:
    where = address(url)
    assert (where.url, where.database, where.shown) == (url, database, shown) and "s3cret" not in repr(where)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is wanted"),
        ("localhost:27017", "--mongo = 'localhost:27017': mongodb://"),
        ("me:s3cret@host", "is wanted"),
        ("mongodb://me:s3cret@", "names no host"),
        ("mongodb://me:s3%cret@host:x/lab", "cannot be read"),
        ("mongodb://me:s3cret@host/a/b", "one database"),
        ("mongodb://me:s3cret@host/a b", "one database"),
    ],
)
def test_wrong_addresses(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        address(url)
    assert "s3" not in str(error.value) and error.value.__cause__ is None


def test_options_of_the_address_go_before_ours() -> None:
    with mongo.connect(address("mongodb://host/lab?socketTimeoutMS=7&w=1")) as client:
        assert client.options.pool_options.socket_timeout == 0.007
        assert client.options.pool_options.connect_timeout == mongo.PATIENCE_MS / 1000
        assert client.write_concern.document == {"w": 1}
    with mongo.connect(address("mongodb://host/lab")) as client:
        assert client.write_concern.document == {"j": True}


def test_credentials_are_hidden_in_any_text() -> None:
    text = "--mango=mongodb://me:s3cret@host/lab?x=s3cret is unknown, 'MongoDB+SRV://me:s3/cret@host' too"
    assert hide(text) == "--mango=mongodb://host/lab is unknown, 'MongoDB+SRV://host/' too"
    assert not is_mongo("mongodb") and is_mongo("MONGODB://x")


def test_what_bson_refuses_becomes_text() -> None:
    import bson

    value: Any = {"a.b": {"$c": (1, 2**70, None)}, 3: [{"d.e": True}]}
    made = valid(value)
    assert made == {"a,b": {"@c": [1, str(2**70), None]}, "3": [{"d,e": True}]}
    bson.encode(made, check_keys=True)


def test_a_runs_identity() -> None:
    run = {"start_time": "2026-01-02T03:04:05.000001", "host": {"hostname": "box"}, "status": "RUNNING"}
    same = run_uid(run, {"seed": 1, "lr": 0.1})
    assert run_uid(run | {"status": "COMPLETED"}, {"lr": 0.1, "seed": 1}) == same
    others = [run_uid(run, {"seed": 2}), run_uid(run | {"start_time": "x"}, {"seed": 1, "lr": 0.1})]
    assert len({same, *others}) == 3
