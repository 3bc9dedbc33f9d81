"""What can be checked of the containers without a Docker engine. Nothing here builds or starts one."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def stages() -> dict[str, list[str]]:
    """Name of each stage of the Dockerfile -> its lines, the first being what it is made from."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.M)[1:]
    return {parts[i + 1]: [parts[i], *parts[i + 2].splitlines()] for i in range(0, len(parts), 3)}


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    images = [lines[0] for lines in stages().values() if lines[0] not in stages()]
    images += [service["image"] for service in services.values() if "image" in service]
    assert len(images) == 4 and all(re.search(r":[a-z-]*\d+[.\d]*\d", image) for image in images)


def test_nobody_is_root(services: dict[str, Any]) -> None:
    for name in ("cpu", "cuda", "sc2", "omniboard"):
        users = [line.split()[1] for line in stages()[name] if line.startswith("USER ")]
        assert users and users[-1].isdigit() and users[-1] != "0"
    assert {service["build"]["target"] for service in services.values() if "build" in service} == {
        "${TARGET:-cpu}",
        "omniboard",
    }


def test_ports_are_bound_to_the_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2 and all(str(port).startswith("127.0.0.1:") for port in ports)


def test_the_password_is_in_a_secret_alone(services: dict[str, Any]) -> None:
    text = (DOCKER / "compose.yaml").read_text()
    assert yaml.safe_load(text)["secrets"]["mongo_password"] == {"file": "./mongo_password.txt"}
    assert all(service["secrets"] == ["mongo_password"] for service in services.values())
    passwords = {
        key: value
        for service in services.values()
        for key, value in service["environment"].items()
        if "PASSWORD" in key
    }
    assert passwords and all(k.endswith("_FILE") and v.startswith("/run/secrets/") for k, v in passwords.items())
    assert "mongo_password" not in (DOCKER / "Dockerfile.dockerignore").read_text()
    assert "docker/mongo_password.txt" in (DOCKER.parent / ".gitignore").read_text()


def test_everything_has_a_health_check(services: dict[str, Any]) -> None:
    assert "healthcheck" in services["mongo"] and services["mongo"]["volumes"] == ["mongo:/data/db"]
    assert all(
        services[name]["depends_on"]["mongo"]["condition"] == "service_healthy" for name in ("trainer", "omniboard")
    )
    assert sum(line.startswith("HEALTHCHECK") for line in stages()["base"]) == 1
    assert sum(line.startswith("HEALTHCHECK") for line in stages()["omniboard"]) == 1


def test_omniboard_can_log_in(services: dict[str, Any]) -> None:
    """Omniboard 2.16.1's driver (mongodb 3.7 without its unified topology) sends saslStart as OP_QUERY, which MongoDB
    refuses since 5.1. The shell of images before 6.0 is called mongo."""
    major, minor = map(int, services["mongo"]["image"].removeprefix("mongo:").split(".")[:2])
    assert (major, minor) < (5, 1) and services["mongo"]["healthcheck"]["test"][1] == "mongo"
    assert "omniboard@2.16.1" in DOCKERFILE


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in DOCKERFILE.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    for word in copied:
        if not word.startswith(("-", "/")):
            path = Path(word)
            assert (DOCKER.parent / path).exists(), word
            assert any(path.match(pattern) for pattern in kept), word


def test_the_torch_of_the_cpu_image_is_the_tested_one() -> None:
    pins = (DOCKER.parent / "constraints.txt").read_text().splitlines()
    assert re.findall(r"torch==\S+", DOCKERFILE)[0] in pins


def test_the_address_is_made_from_the_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p@ss/wörd:%\n")
    command = ["sh", str(DOCKER / "entrypoint.sh"), "printenv", "SACRED_MONGO_URL"]
    folder = Path(sys.executable).parent
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "MONGO_USER": "me", "MONGO_HOST": "mongo:27017"}
    done = subprocess.run(command, env=env | {"MONGO_PASSWORD_FILE": str(secret)}, capture_output=True, text=True)
    url = done.stdout.strip()
    assert url == "mongodb://me:p%40ss%2Fw%C3%B6rd%3A%25@mongo:27017/sacred?authSource=admin", done.stderr
    pymongo = pytest.importorskip("pymongo", reason="pymongo is not installed: pip install -e '.[mongo]'")
    assert pymongo.uri_parser.parse_uri(url)["password"] == "p@ss/wörd:%"
    assert subprocess.run(command, env=env, capture_output=True).stdout == b""


@pytest.mark.parametrize(("age", "status"), [(None, 1), (10, 0), (1000, 1)])
def test_a_trainer_is_healthy_while_it_writes(tmp_path: Path, age: int | None, status: int) -> None:
    if age is not None:
        path = tmp_path / "results/sacred/mmsa/task/1/run.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        os.utime(path, (time.time() - age,) * 2)
    assert subprocess.run([sys.executable, str(DOCKER / "healthy.py")], cwd=tmp_path).returncode == status


def test_starcraft_has_its_own_requirements() -> None:
    assert any("pip install -r requirements-sc2.txt" in line for line in stages()["sc2"])
    lines = (DOCKER.parent / "requirements-sc2.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert re.fullmatch(r"smacv2 @ https://github\.com/oxwhirl/smacv2/archive/[0-9a-f]{40}\.tar\.gz", pinned[0])
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in pinned[1:])
    versions = dict(line.split("==") for line in pinned[1:])
    assert tuple(map(int, versions["protobuf"].split("."))) < (3, 21) and "jaxmarl" not in versions
    tested = dict(
        line.split("==") for line in (DOCKER.parent / "constraints.txt").read_text().splitlines() if "==" in line
    )
    setup = configparser.ConfigParser()
    setup.read(DOCKER.parent / "setup.cfg")
    needed = {re.split(r"[<>=]", line)[0] for line in setup["options"]["install_requires"].split()}
    for name in needed - {"jaxmarl", "jax"}:  # SMAX
        assert versions.get(name) == tested[name], f"{name} is missing or another one than in constraints.txt"


def test_starcraft_needs_the_licence(tmp_path: Path) -> None:
    command = ["bash", str(DOCKER / "install_sc2.sh"), str(tmp_path / "sc2")]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 2 and "ACCEPT_SC2_EULA=yes" in done.stderr and not (tmp_path / "sc2").exists()


@pytest.mark.parametrize(("name", "status"), [("32x32_flat.SC2Map", 0), ("3m.SC2Map", 1)])
def test_what_another_smac_has_left_is_added_to(tmp_path: Path, name: str, status: int) -> None:
    """Folders are there, but neither the game nor SMACv2's map; `name` is the map in the archive that is fetched.

    The first try is cut off by a full disk, and begun again."""
    sc2, tools = tmp_path / "sc2", tmp_path / "tools"
    for path in (sc2 / "Maps/SMAC_Maps", sc2 / "Versions", tools):
        path.mkdir(parents=True)
    (sc2 / "Maps/SMAC_Maps/8m.SC2Map").touch()
    game, maps = "StarCraftII/Versions/Base75689", "maps/SMAC_Maps"
    unzip = f"""case "$*" in *sc2.zip*) to={game} file=SC2_x64;; *) to={maps} file={name};; esac
for folder; do :; done
mkdir -p "${{folder%/maps}}/$to" && touch "${{folder%/maps}}/$to/$file"
"""
    for tool, does in (("curl", "exit 0\n"), ("unzip", unzip)):
        (tools / tool).write_text(f"#!/bin/sh\n{does}")
        (tools / tool).chmod(0o755)
    (tools / "cp").write_text('#!/bin/sh\n/bin/cp "$@"\nexit 1\n')  # the disk is full
    (tools / "cp").chmod(0o755)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "ACCEPT_SC2_EULA": "yes"}
    command = ["bash", str(DOCKER / "install_sc2.sh"), str(sc2)]
    assert subprocess.run(command, env=env, capture_output=True).returncode == 1
    assert (sc2 / "Versions/Base75689/SC2_x64").is_file()
    (sc2 / "Versions/Base75689/SC2_x64").write_text("some of it")
    (tools / "cp").unlink()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert not (sc2 / "Versions/Base75689/SC2_x64").read_text() and not list(sc2.rglob(".unfinished"))
    assert (sc2 / "Versions/Base75689/SC2_x64").is_file() and (sc2 / "Maps/SMAC_Maps" / name).is_file()
    assert status == 0 or "32x32_flat.SC2Map" in done.stderr


def test_scripts_can_be_read_and_run() -> None:
    for path in DOCKER.glob("*.sh"):
        shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
        assert subprocess.run([shell, "-n", str(path)]).returncode == 0 and os.access(path, os.X_OK), path.name


def test_a_linter_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed: pip install -e '.[dev]'")
    done = subprocess.run([program, str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_compose_takes_the_files(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        shutil.copy(DOCKER / name, tmp_path)
    (tmp_path / "mongo_password.txt").write_text("secret\n")
    options = [word for name in files for word in ("-f", str(tmp_path / name))]
    for program in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(program[0]) and subprocess.run([*program, "version"], capture_output=True).returncode == 0:
            done = subprocess.run([*program, *options, "config", "--quiet"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return
    pytest.skip("neither docker compose nor docker-compose is installed")
