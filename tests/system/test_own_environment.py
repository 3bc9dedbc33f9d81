"""An environment from outside the tree: examples/my_env.py and its YAML copied elsewhere, and what can go wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import envs
import main
from experiments import planning
from utils import config, hosts, resume, untrusted
from utils.checkpoints import Checkpoints
from utils.commands import rebuilt_command

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["t_max=150", "batch_size=4", "test_interval=100", "test_nepisode=2", "hidden_dim=16", "seed=1"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two files, copied under another name; what they change in this process is undone."""
    text = (ROOT / "examples/my_env.py").read_text()
    (tmp_path / "corridor_env.py").write_text(text.replace('register("my_env"', 'register("corridor"'))
    text = (ROOT / "examples/my_env.yaml").read_text()
    text = text.replace("env: my_env ", "env: corridor ").replace("my_env.py ", "corridor_env.py ")
    (tmp_path / "corridor.yaml").write_text(text)
    monkeypatch.setattr(envs, "REGISTRY", dict(envs.REGISTRY))
    monkeypatch.setattr(envs, "ARGS", dict(envs.ARGS))
    monkeypatch.setattr(hosts, "_registered", set(hosts._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("corridor"):
            del sys.modules[name]


def problem(folder: Path, *overrides: str, environment: str = "corridor.yaml") -> str:
    with pytest.raises(config.ConfigError) as caught:
        config.compose("qmix", str(folder / environment), overrides)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("algorithm", "more"), [("mmsa", []), ("qmix", ["runner=parallel", "batch_size_run=2", "env_workers=2"])]
)
def test_two_copied_files_are_enough(own: Path, algorithm: str, more: list[str]) -> None:
    work = own / "work"
    work.mkdir()
    command = [
        sys.executable,
        str(ROOT / "src/main.py"),
        f"--config={algorithm}",
        "--env-config=../corridor.yaml",
        "with",
    ]
    path = os.pathsep.join([str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *SMALL, *more, "env_args.length=4"],
        cwd=work, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (work / "results/sacred" / algorithm / "corridor").glob("[0-9]*")
    info, composed = (json.loads((folder / f"{name}.json").read_text()) for name in ("info", "config"))
    assert info["backend"] == "my_env 1.0" and info["env_info"]["length"] == 4
    assert composed["env_module"] == str(own / "corridor_env.py")
    assert info["test_met_mean"] and info["loss"]


def test_its_arguments_are_checked_like_any_other_s(own: Path) -> None:
    assert "did you mean env_args.length?" in problem(own, "env_args.lenght=4")
    assert "env_args.length = 1" in problem(own, "env_args.length=1")


def test_what_can_be_wrong_with_the_module(own: Path) -> None:
    assert "there is no file" in problem(own, f"env_module={own / 'corridor_nv.py'}")
    assert "no installed module 'corridor_package'" in problem(own, "env_module=corridor_package")
    for name in ("./corridor.yaml", "corridor..env", ".corridor_env"):
        assert f"no installed module {name!r}; name a file" in problem(own, f"env_module={name}")
    (own / "corridor_empty.py").write_text("")
    said = problem(own, f"env_module={own / 'corridor_empty.py'}")
    assert "it has no register()" in said and "examples/my_env.py" in said
    (own / "corridor_imported.py").write_text("from envs import register")
    said = problem(own, f"env_module={own / 'corridor_imported.py'}")
    assert "define one of its own, which calls envs.register" in said
    (own / "json.py").write_text("def register(): pass")
    assert "another module has the name json" in problem(own, f"env_module={own / 'json.py'}")
    (own / "corridor-2.py").write_text("def register(): pass")
    assert "can import no file of this name" in problem(own, f"env_module={own / 'corridor-2.py'}")
    for name, text, words in (
        ("syntax", "def register(:", r"SyntaxError: .*corridor_syntax.py, line 1"),
        ("lacking", "import notthere", "ModuleNotFoundError: No module named 'notthere'"),
    ):
        (own / f"corridor_{name}.py").write_text(text)
        said = problem(own, f"env_module={own / f'corridor_{name}.py'}")
        assert re.search(f"corridor_{name}.py cannot be imported: {words}", said), said
    taken = (own / "corridor_env.py").read_text().replace('register("corridor"', 'register("smax"')
    (own / "corridor_taken.py").write_text(taken)
    assert "already another environment 'smax'" in problem(own, f"env_module={own / 'corridor_taken.py'}")


def test_what_its_constructor_must_take(own: Path) -> None:
    text = (own / "corridor_env.py").read_text().replace("        seed: int | None = None,\n", "")
    (own / "corridor_bare.py").write_text(text.replace('register("corridor"', 'register("corridor_bare"'))
    said = problem(own, f"env_module={own / 'corridor_bare.py'}")
    assert "corridor_bare: MyEnv must take the keyword seed" in said, said


def test_it_is_shown_if_it_has_a_method_for_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    (own / "networks/100").mkdir(parents=True)
    words = ["render=True", "evaluate=True", f"checkpoint_path={own / 'networks'}"]
    composed = config.compose("qmix", str(own / "corridor.yaml"), words)
    with pytest.raises(ValueError, match="render=True: corridor cannot be shown"):
        envs.require(composed)
    made = envs.REGISTRY["corridor"]
    monkeypatch.setitem(envs.REGISTRY, "corridor", lambda **arguments: made(**arguments))
    envs.require(composed)  # of what a function makes, only the window tells
    monkeypatch.setitem(envs.REGISTRY, "corridor", made)
    monkeypatch.setattr(made, "render", lambda self: None, raising=False)
    envs.require(composed)


def test_a_module_that_registers_another_name(own: Path) -> None:
    said = problem(own, "env=corridoor")
    assert "env = 'corridoor'" in said and "did you mean corridor?" in said


def test_a_file_that_is_not_there(own: Path) -> None:
    assert "corridoor.yaml: there is no such file" in problem(own, environment="corridoor.yaml")
    with pytest.raises(config.ConfigError, match="--env-config=corridoor.yaml: there is no such file; available: "):
        config.compose("qmix", "corridoor.yaml")


def test_the_module_is_found_beside_its_yaml_and_registered_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    first = config.compose("qmix", "corridor.yaml")
    second = config.compose("vdn", str(own / "corridor.yaml"))
    assert first["env_module"] == second["env_module"] == str(own / "corridor_env.py")
    assert "corridor" in envs.REGISTRY and first["env_args"]["length"] == 6


def test_one_in_this_checkout_is_the_same_in_every_checkout(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its published runs count there. A file of that name where the run is started is not meant."""
    (own / "examples").mkdir()
    (own / "examples/my_env.py").write_text("raise RuntimeError('another one')")
    monkeypatch.chdir(own)
    composed = config.compose("qmix", str(ROOT / "examples/my_env.yaml"))
    assert composed["env_module"] == "examples/my_env.py" and "my_env" in envs.REGISTRY
    assert list(untrusted.named_code(composed)) == []


def test_the_command_of_its_run_is_recorded_and_read_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    shutil.move("corridor.yaml", "my corridor.yaml")
    composed = config.compose("qmix", "my corridor.yaml", ["seed=3"])
    command = rebuilt_command(composed, "qmix", "my corridor.yaml")
    file = str(own / "my corridor.yaml")
    assert shlex.split(command)[2:] == ["--config=qmix", f"--env-config={file}", "with", "seed=3"]
    assert resume._files({"command": command}) == ("qmix", file)
    assert resume._files({"command": "python 'src"}) == ("", "")


def test_an_experiment_names_it_from_the_working_directory(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    (own / "mine.yaml").write_text(
        "algorithms: {QMIX: {config: qmix}}\ntasks: {corridor: {env_config: ./corridor.yaml}}\nseeds: [1]\nt_max: 100\n"
    )
    (run,) = planning.plan(planning.load_experiment("mine.yaml"), own / "out")
    assert "--env-config=./corridor.yaml" in run.words  # a run has the working directory of compare.py
    assert run.config["env_module"] == str(own / "corridor_env.py")


def test_the_command_to_go_on_is_the_whole_one(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    save = Checkpoints.save

    def interrupted(self: Checkpoints, *args: Any, **about: Any) -> Any:
        save(self, *args, **about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", interrupted)
        words = ["--config=vdn", "--env-config=corridor.yaml", "with", *SMALL, "checkpoint_interval=50"]
        assert main.main(words) == 130
    command = capsys.readouterr().out.partition("to go on: ")[2].strip()
    assert command.endswith(f"/1 --trust {own / 'corridor_env.py'}")
    assert main.main(shlex.split(command)[2:]) == 0
