"""Addresses, credentials and the form of documents; the writing itself is in test_recording.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils import mongo
from utils.config import ConfigError
from utils.mongo import address, files_of, hide, is_mongo, run_uid, valid


@pytest.mark.parametrize(
    ("url", "database", "shown"),
    [
        ("mongodb://host:1/lab", "lab", "mongodb://host:1/lab"),
        ("mongodb://host", "sacred", "mongodb://host/sacred"),
        ("mongodb://host/", "sacred", "mongodb://host/sacred"),
        ("mongodb://me:s3cret@a,b:2/lab?authSource=admin", "lab", "mongodb://a,b:2/lab"),
        ("mongodb://me:s3cret@host/lab?appName=s3cret@s3cret", "lab", "mongodb://host/lab"),
        ("mongodb://me:s3cr'et@[::1]:7/lab", "lab", "mongodb://[::1]:7/lab"),
        ("mongodb+srv://me:s3cret@cluster.example/?tls=true", "sacred", "mongodb+srv://cluster.example/sacred"),
    ],
)
def test_addresses(url: str, database: str, shown: str) -> None:
    where = address(url)
    assert (where.url, where.database, where.shown) == (url, database, shown) and "s3cret" not in repr(where)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is wanted"),
        ("localhost:27017", "--mongo = 'localhost:27017': an address like mongodb://host:27017/DB is wanted"),
        ("me:s3cret@host", "is wanted"),
        ("mongodb://me:s3cret@", "is wanted"),
        ("mongodb://me:s3cret", "is wanted"),
        ("mongodb://me:1?s3cret@host/lab", "is wanted"),
        ("mongodb://me:1/s3cret@host/lab", "is wanted"),
        ("mongodb://me:s3cret@host:x/lab", "is wanted"),
        ("mongodb://me:s3cret@host/a/b", "is wanted"),
        ("mongodb://me:s3cret@host/a b", "is wanted"),
        ("mongodb://me:s3%cret@host/lab", "cannot be read"),
        ("mongodb://me:a@s3cret@host/lab", "cannot be read"),
        ("mongodb://host/lab?tlsCAFile=/no/s3cret", "cannot be read"),
    ],
)
def test_wrong_addresses(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        address(url)
    assert "s3" not in str(error.value) and error.value.__cause__ is None
    assert hide(str(error.value)) == str(error.value)  # main.py and track.py do it to every message


def test_options_of_the_address_go_before_ours() -> None:
    with mongo.connect(address("mongodb://host/lab?socketTimeoutMS=7&w=1")) as client:
        assert client.options.pool_options.socket_timeout == 0.007
        assert client.options.pool_options.connect_timeout == mongo.PATIENCE_MS / 1000
        assert client.write_concern.document == {"w": 1}
    with mongo.connect(address("mongodb://host/lab")) as client:
        assert client.write_concern.document == {"j": True}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--mango=mongodb://me:s3cret@host/lab?x=s3cret is unknown", "--mango=mongodb://host/lab is unknown"),
        ("'MongoDB+SRV://me:s3/cret@host' too", "'MongoDB+SRV://***' too"),
        ("mongodb://me:a 's3cret@a/x, mongodb://me:\"s3cret@b/x", "mongodb://a/x, mongodb://b/x"),
        (
            "mongodb://me:s3cret is no host; mongodb://host:1/lab: away",
            "mongodb://*** is no host; mongodb://host:1/lab: away",
        ),
        ("mongodb://host/lab?password=a@s3cret", "mongodb://host/lab"),
    ],
)
def test_credentials_are_hidden_in_any_text(text: str, shown: str) -> None:
    assert hide(text) == shown
    assert not is_mongo("mongodb") and is_mongo("MONGODB://x")


def test_what_bson_refuses_becomes_text() -> None:
    import bson

    value: Any = {"a.b": {"$c": (1, 2**70, None)}, 3: [{"d.e": True}]}
    made = valid(value)
    assert made == {"a,b": {"@c": [1, str(2**70), None]}, "3": [{"d,e": True}]}
    bson.encode(made, check_keys=True)


def test_text_that_is_no_utf_8() -> None:
    assert valid({"label": "caf\udce9", "key": "café"}) == {"label": "caf\\udce9", "key": "café"}


def test_a_runs_identity() -> None:
    run = {"start_time": "2026-01-02T03:04:05.000001", "host": {"hostname": "box"}, "status": "RUNNING"}
    same = run_uid(run, {"seed": 1, "lr": 0.1})
    assert run_uid(run | {"status": "COMPLETED"}, {"lr": 0.1, "seed": 1}) == same
    others = [run_uid(run, {"seed": 2}), run_uid(run | {"start_time": "x"}, {"seed": 1, "lr": 0.1})]
    assert len({same, *others}) == 3


def test_files_that_a_record_names_elsewhere_are_none_of_it(tmp_path: Path) -> None:
    """As one from elsewhere may, to have a reader's files uploaded with it."""
    folder, secret = tmp_path / "task" / "1", tmp_path / "secret"
    (folder.parent / "_sources").mkdir(parents=True)
    folder.mkdir()
    for path in (secret, folder / "curve.png", folder.parent / "_sources" / "main.py"):
        path.write_text("x")
    (folder / "link.png").symlink_to(secret)
    named = ["curve.png", "gone.png", "link.png", str(secret), "../../secret"]
    sources = [["main.py", "_sources/main.py"], ["main.py", str(secret)], ["main.py", "../secret"]]
    found = files_of(folder, {"artifacts": named, "experiment": {"sources": sources}})
    assert found == (
        [("main.py", folder.parent / "_sources/main.py")],
        [("curve.png", folder / "curve.png")],
    )
