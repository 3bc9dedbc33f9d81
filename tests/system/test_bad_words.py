"""Command lines and configurations that are wrong, by the hundred: exit status 2, one message, nothing written."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import main

ROOT = Path(__file__).resolve().parents[2]
KEYS = sorted(yaml.safe_load((ROOT / "config" / "default.yaml").read_text()))
# What a value of the command line must not be mistaken for, beside any text
VALUES = [
    "", "null", "true", "-1", "0", "1e999", "nan", "-inf", "0x10", "1_000", "9" * 23, "[1, 2", "{a: 1}", "[[[[[[]]]]]]",
    "'", "\\", "a=b=c", "!!python/object:os.system x", "&a [*a]", "{1: 2}", "b'x'", "()", "1+1", "2026-1-1", "~",
    "../../etc/passwd", "$HOME", "{}", "__import__('os')", "x" * 5000, "\u202e", "\x00", "é", "-" * 300, "(" * 300,
]  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.one_of(
    st.sampled_from(["vdn", "lbf", "", "vdn.yaml", "../vdn", "/etc/passwd", "default", "VDN", ".", "lbf.yaml"]), TEXT
)


@st.composite
def overrides(draw: Any) -> str:
    key = draw(
        st.sampled_from([*KEYS, "env_args.key", "env_args.time_limit", "env_args.x", "lr.x", "plugin", ".", "a.b.c"])
    )
    if draw(st.integers(0, 3)) == 0:  # misspelt
        at = draw(st.integers(0, len(key)))
        key = key[:at] + draw(TEXT) + key[at + 1 :]
    sign = draw(st.sampled_from(["=", "=", "=", "", "==", ":", " = "]))
    return key + sign + draw(st.one_of(st.sampled_from(VALUES), TEXT, st.integers().map(str), st.floats().map(str)))


@st.composite
def command_lines(draw: Any) -> list[str]:
    """Mostly wrong; one that is not prints its configuration and begins no run."""
    words = []
    if draw(st.integers(0, 5)):
        words.append(f"--config={draw(NAMES) if draw(st.booleans()) else 'vdn'}")
    if draw(st.integers(0, 5)):
        words.append(f"--env-config={draw(NAMES) if draw(st.booleans()) else 'lbf'}")
    others = [
        "--confg=x", "-z", "--resume", "--resume=nowhere", "--resume=config", "--watch=nowhere", "train",
        "--out=a.gif", "--trust=os", "--mongo=http://x", "--mongo=mongodb://", "--episodes=-3", "seed=1", "--",
    ]  # fmt: skip
    words += draw(st.lists(st.sampled_from(others), max_size=2))
    return ["--print-config", *words, "with", *draw(st.lists(overrides(), max_size=4))]


def check(status: Any, out: str, err: str) -> None:
    assert status == 2 and out == "", (status, out)
    assert err.startswith("error: ") and err.count("error: ") >= 1 and "Traceback" not in err, err
    assert not any(line.startswith("error: ") for line in err.splitlines()[1:]), err


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(words=command_lines())
def test_wrong_words_end_with_one_message_and_nothing_written(tree: Path, words: list[str]) -> None:
    before = sorted(path for path in tree.rglob("*"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main(words)
    assert sorted(path for path in tree.rglob("*")) == before
    assume(status != 0)  # the configuration is right
    check(status, out.getvalue(), err.getvalue())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(overrides(), min_size=1, max_size=5).map(
            lambda lines: "\n".join(lines).replace("=", ": ", 1).encode()
        ),
        st.sampled_from(VALUES).map(lambda value: f"name: {value}\n".encode()),
        st.sampled_from(KEYS).flatmap(
            lambda key: st.sampled_from(VALUES).map(lambda value: f"name: vdn\n{key}: {value}\n".encode())
        ),
    )
)
def test_wrong_files_end_with_one_message_and_nothing_written(tree: Path, content: bytes) -> None:
    (tree / "config" / "algs" / "mine.yaml").write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main(["--config=mine", "--env-config=lbf", "--print-config"])
    assert {path.name for path in tree.iterdir()} == {"config"}
    assume(status != 0)
    check(status, out.getvalue(), err.getvalue())


PROCESSES = [
    [],
    ["--config=qmix"],
    ["--config=../qmix", "--env-config=gymma"],
    ["--config=qmix", "--env-config=gymma", "with", "lr=1e999"],
    ["--config=qmix", "--env-config=gymma", "with", "env_args.key=!!python/object:os.system"],
    ["--config=qmix", "--env-config=gymma", "seed=1"],
    ["--config=mmsa", "--env-config=matrix", "with", "imagination.horizon=-1", "sale.dim=x", "no_such=[[["],
    ["--resume=nowhere"],
    ["--resume=last"],
    ["--config=qmix", "--env-config=matrix", "with", "plugin=no_such_plugin"],
    [f"--config={'x' * 300}.yaml", "--env-config=matrix"],
    [f"--resume={'x' * 300}"],
    ["--config=qmix", "--env-config=matrix", "with", f"local_results_path={'x' * 300}"],
]


def test_in_processes_of_their_own(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "src" / "main.py"), *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in PROCESSES
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        check(process.returncode, out, err)
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_without_permission(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main.os, "access", lambda *_: False)  # of root nothing is refused
    assert main.main(["--config=vdn", "--env-config=lbf", "with", "seed=1"]) == 2
    output = capsys.readouterr()
    check(2, output.out, output.err)
    assert "no writable folder" in output.err and {path.name for path in tree.iterdir()} == {"config"}
