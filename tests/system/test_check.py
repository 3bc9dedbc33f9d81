"""--check: a line for everything, no traceback, and what is missing with the command that mends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import main
from utils import doctor
from utils.config import available

ROOT = Path(__file__).resolve().parents[2]
HIDE = """
import importlib.machinery, importlib.metadata, sys
hidden = {hidden!r}
search = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in hidden else search(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
find = importlib.metadata.distribution
def distribution(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.distribution = distribution
"""


def report(folder: Path, hidden: tuple[str, ...] = (), broken: str = "") -> dict[str, str]:
    """name -> mark and text, of --check in a process of its own, in which packages are hidden or one is broken."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden)))
    if broken:
        (site / f"{broken}.py").write_text("raise RuntimeError('numpy 1 was wanted\\nmore')\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SACRED_MONGO_URL": "mongodb://user:secret@127.0.0.1:1/DB"}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "src" / "main.py"), "--check"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr and "secret" not in ran.stdout + ran.stderr
    assert all(len(line) <= doctor.WIDTH or " " not in line.strip() for line in ran.stdout.splitlines())
    lines: dict[str, str] = {}
    name = ""
    for line in ran.stdout.splitlines():
        if line.startswith("  ") and line[2:18].strip():
            name = line[2:18].strip()
            lines[name] = line[19:]
        elif line.startswith("  "):
            lines[name] += " " + line.strip()
    return lines


def test_everything_has_its_line(tmp_path: Path) -> None:
    lines = report(tmp_path, hidden=("tensorboard",))
    names = {"Python", "torch", "threads", "GPU", "results", "MongoDB", "TensorBoard", "W&B", "Ray", "report"}
    assert names | set(available("envs")) - {"sc2v2"} | {"sc2v2 starcraft2", "sc2v2 smax"} <= set(lines)
    for name in ("Python", "torch", "results", "gymma", "matrix", "smax", "sc2v2 smax"):
        assert lines[name].startswith("ok "), lines[name]
    assert sys.version.split()[0] in lines["Python"] and "GB free" in lines["results"]
    assert lines["TensorBoard"].startswith("no ") and "pip install -e '.[tensorboard]'" in lines["TensorBoard"]
    assert not (tmp_path / "results").exists()


def test_what_is_missing_is_named_with_its_cure(tmp_path: Path) -> None:
    hidden = ("lbforaging", "vmas", "gymnasium_robotics", "jaxmarl", "wandb", "pymongo", "ray", "rliable", "mpe2")
    lines = report(tmp_path, hidden, broken="rware")
    cures = {
        "gymma": "pip install lbforaging",
        "mpe": "pip install mpe2",
        "vmas": "pip install -e '.[vmas]'",
        "mamujoco": "pip install -e '.[mujoco]'",
        "smax": "pip install jaxmarl",
        "sc2v2 smax": "pip install jaxmarl",
        "sc2v2 starcraft2": "smacv2",
        "W&B": "pip install -e '.[wandb]'",
        "MongoDB": "pip install -e '.[mongo]'",
        "Ray": "pip install -e '.[ray]'",
        "report": "pip install -e '.[report]'",
        "rware": "broken (RuntimeError: numpy 1 was wanted)",
    }
    for name, cure in cures.items():
        assert lines[name].startswith("no ") and cure in lines[name], (name, lines[name])
    assert lines["matrix"].startswith("ok ") and lines["torch"].startswith("ok ")


def test_results_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").write_text("a file")
    monkeypatch.chdir(tmp_path)
    for part in ("environments", "extras"):
        monkeypatch.setattr(doctor, part, lambda: iter(()))
    assert main.main(["--check"]) == 0
    line = " ".join(capsys.readouterr().out.partition("  results ")[2].partition("\nenvironments")[0].split())
    assert line.startswith("no ") and line.endswith("with local_results_path=FOLDER results go elsewhere")


@pytest.mark.parametrize("cuda", [None, "12.8"])
def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    import torch

    def no_driver() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nMore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", no_driver)
    line = doctor._tried("GPU", doctor._gpu)
    assert line.mark == "no"
    assert ("built for the CPU only" if cuda is None else "Found no NVIDIA driver on your system. (") in line.text


def test_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU number {i}")
    assert doctor._tried("GPU", doctor._gpu) == ("GPU", "ok", "GPU number 0, GPU number 1")


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("main.py --check", "yaml"),
        ("main.py --check", "pydantic"),
        ("main.py --config=qmix --env-config=matrix with t_max=5", "sacred"),
        ("compare.py --help", "rich"),
        ("track.py ls", "numpy"),
    ],
)
def test_a_package_that_is_needed(tmp_path: Path, command: str, package: str) -> None:
    """As without the virtual environment: one line says what to do."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden={package}))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    file, *words = command.split()
    ran = subprocess.run(
        [sys.executable, str(ROOT / "src" / file), *words],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith(f"error: the package {package} is not installed for {sys.executable} (")
    assert "source .venv/bin/activate" in ran.stderr
