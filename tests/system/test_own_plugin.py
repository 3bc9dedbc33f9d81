"""A plugin of one file from outside the tree: examples/my_mixer.py and its YAML copied, and what can go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch as th

from modules import mixers
from utils import config, hosts, identity

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/my_mixer.yaml"
SMALL = ["env_args.key=climbing", "t_max=150", "batch_size=4", "test_interval=100", "test_nepisode=2", "seed=1"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two files, copied under another name; what they change in this process is undone."""
    text = (ROOT / "examples/my_mixer.py").read_text()
    (tmp_path / "weighted_mixer.py").write_text(text.replace('["my_mixer"]', '["weighted"]'))
    text = EXAMPLE.read_text().replace("mixer: my_mixer ", "mixer: weighted ")
    (tmp_path / "weighted.yaml").write_text(text.replace("plugin: my_mixer.py ", "plugin: weighted_mixer.py "))
    monkeypatch.setattr(mixers, "REGISTRY", dict(mixers.REGISTRY))
    monkeypatch.setattr(hosts, "_registered", set(hosts._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("weighted", "my_mixer")):
            del sys.modules[name]


def problem(folder: Path, *overrides: str) -> str:
    with pytest.raises(config.ConfigError) as caught:
        config.compose(str(folder / "weighted.yaml"), "matrix", ["env_args.key=climbing", *overrides])
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize("more", [[], ["pipeline=True"]])
def test_two_copied_files_are_enough(own: Path, more: list[str]) -> None:
    work = own / "work"
    work.mkdir()
    command = [sys.executable, str(ROOT / "src/main.py"), "--config=../weighted.yaml", "--env-config=matrix", "with"]
    done = subprocess.run([*command, *SMALL, *more], cwd=work, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (work / "results/sacred/my_mixer/climbing").glob("[0-9]*")
    info, composed = (json.loads((folder / f"{name}.json").read_text()) for name in ("info", "config"))
    assert info["loss"] and info["test_return_mean"]
    assert composed["plugin"] == str(own / "weighted_mixer.py") and composed["mixer_width"] == 32


def test_its_keys_are_checked_like_any_other_s(own: Path) -> None:
    assert "did you mean mixer_width?" in problem(own, "mixer_widht=4")
    assert "mixer_width = 0" in problem(own, "mixer_width=0")


def test_what_can_be_wrong_with_the_file(own: Path) -> None:
    assert "there is no file" in problem(own, f"plugin={own / 'weighted_mixr.py'}")
    for number, text in enumerate(("def register(): pass", "class Config: pass\nregister = 5", "Config = 1")):
        path = own / f"weighted_{number}.py"
        path.write_text(text)
        said = problem(own, f"plugin={path}")
        assert "it has no Config (a pydantic model)" in said and "examples/my_mixer.py shows one" in said
        assert ("and no register()" in said) == (number > 0)
    assert "plugin = ''" in problem(own, "plugin=")
    (own / "weighted_lacking.py").write_text("import notthere")
    assert "weighted_lacking.py cannot be imported: ModuleNotFoundError" in problem(
        own, f"plugin={own / 'weighted_lacking.py'}"
    )


def test_the_example_in_this_checkout_is_the_same_in_every_checkout(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name where the run is started is not meant."""
    (own / "examples").mkdir()
    (own / "examples/my_mixer.py").write_text("raise RuntimeError('another one')")
    monkeypatch.chdir(own)
    composed = config.compose(os.path.relpath(EXAMPLE), "matrix", ["env_args.key=climbing"])
    assert composed["plugin"] == "examples/my_mixer.py" and composed["mixer_width"] == 32


def test_a_file_that_the_command_line_names_is_found_again_from_anywhere(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    composed = config.compose("vdn", "matrix", ["env_args.key=climbing", "plugin=weighted_mixer.py", "mixer=weighted"])
    assert composed["plugin"] == str(own / "weighted_mixer.py")


def test_where_the_file_lies_makes_no_other_run() -> None:
    here, there = ({"plugin": f"/{folder}/mixer.py", "lr": 0.1} for folder in ("a", "b"))
    assert identity.differences(here, there) == []
    (difference,) = identity.differences(here, here | {"plugin": "/a/other.py"})
    assert difference == "plugin is 'mixer.py', the plan has 'other.py'"
    assert identity.differences(here, here | {"plugin": "mixer"})


def test_the_mixer_is_the_stated_function(own: Path) -> None:
    config.compose(str(EXAMPLE), "matrix", ["env_args.key=climbing"])
    mixer = mixers.REGISTRY["my_mixer"](SimpleNamespace(n_agents=3, state_shape=5, mixer_width=7))
    q, states = th.randn(2, 4, 3, requires_grad=True), th.randn(2, 4, 5)
    total = mixer(q, states)
    for b in range(2):
        for t in range(4):
            weights = mixer.weights(states[b, t]).exp().add(1).log()
            expected = sum(weights[i] * q[b, t, i] for i in range(3)) + mixer.added(states[b, t])
            th.testing.assert_close(total[b, t], expected)
    (gradient,) = th.autograd.grad(total.sum(), q)
    assert (gradient > 0).all()
