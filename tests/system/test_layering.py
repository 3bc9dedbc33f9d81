"""Who may know whom: the imports of every module, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = {path.stem for path in (ROOT / "src").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
SRC = sorted((ROOT / "src").rglob("*.py"))
MMSA = sorted((ROOT / "plugins" / "mmsa").rglob("*.py"))
# From the bottom up: a module imports only those before it.
LAYERS = [
    "config",
    "checkout",
    "guard",
    "kernels",
    "loops",
    "beside",
    "returns",
    "sale",
    "agent",
    "world_model",
    "imagination",
    "mixer",
    "diagnostics",
    "controller",
    "networks",
    "learner",
]
ALGORITHM = {"sale", "world_model", "imagination", "agent", "mixer", "diagnostics"}


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """Dotted names of what a module imports; its own package's as ".name". lazy: those inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ([f"{prefix}{alias.name}" for alias in node.names] if not node.module else [prefix])
        elif isinstance(node, ast.Call):
            yield from _by_name(node)
        if lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def _by_name(call: ast.Call) -> Iterator[str]:
    """import_module("name") and __import__("name")."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function in ("import_module", "__import__") and call.args and isinstance(call.args[0], ast.Constant):
        yield str(call.args[0].value)


def top(name: str) -> str:
    return name.split(".")[0]


def offenders(paths: list[Path], wrong: Callable[[str], bool], lazy: bool = True) -> list[str]:
    """module: import, of everything that is wrong."""
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in imports(path, lazy) if wrong(name)]


def under(*folders: str) -> list[Path]:
    return [path for path in SRC if path.relative_to(ROOT / "src").parts[0].removesuffix(".py") in folders]


def named(*modules: str) -> list[Path]:
    return [path for path in MMSA if path.stem in modules]


def test_imports_are_found(tmp_path: Path) -> None:
    """Of this test itself."""
    path = tmp_path / "x.py"
    path.write_text(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\n"
        "def h():\n    import i\n    importlib.import_module('j')\n    __import__('k')\n"
    )
    assert sorted(imports(path)) == sorted(["a.b", "c", ".e", ".f", "i", "j", "k"])
    assert sorted(imports(path, lazy=False)) == sorted(["a.b", "c", ".e", ".f"])
    assert {"run", "learners", "envs", "utils"} <= HOST and len(SRC) > 20 and len(MMSA) > 8


# --- the host ---
def test_the_host_never_imports_a_plugin() -> None:
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()}
    assert "mmsa" in plugins and offenders(SRC, lambda name: top(name) in plugins) == []


def test_learners_know_neither_runners_nor_environments() -> None:
    assert offenders(under("learners"), lambda name: top(name) in ("runners", "envs", "run")) == []


def test_runners_know_no_learner() -> None:
    assert under("runners") and offenders(under("runners"), lambda name: top(name) == "learners") == []


def test_environments_know_nothing_of_learning() -> None:
    learning = {"torch", "learners", "controllers", "modules", "components", "runners"}
    assert under("envs") and offenders(under("envs"), lambda name: top(name) in learning) == []


def test_reports_and_experiments_know_nothing_of_learning() -> None:
    learning = {"torch", "components", "learners", "controllers", "modules", "runners", "run"}
    paths = [*under("reports", "experiments"), ROOT / "src/utils/progress.py", ROOT / "src/utils/commands.py"]
    assert len(paths) > 15 and offenders(paths, lambda name: top(name) in learning) == []


def test_reports_know_no_experiment() -> None:
    assert under("reports") and offenders(under("reports"), lambda name: top(name) == "experiments") == []


def test_sacred_stays_in_its_places() -> None:
    allowed = (
        "src/utils/sacred_run.py",
        "plugins/mmsa/record.py",
        "src/utils/recording.py",
        "plugins/mmsa/upstream.py",
        "plugins/mmsa/__main__.py",
    )
    paths = [path for path in SRC + MMSA if str(path.relative_to(ROOT)) not in allowed]
    assert offenders(paths, lambda name: top(name) == "sacred") == []


@pytest.mark.parametrize(
    ("packages", "home"),
    [
        (("jax", "jaxlib", "jaxmarl"), "src/envs/smax.py"),
        (("mujoco", "dm_control", "gymnasium_robotics"), "src/envs/mamujoco.py"),
    ],
)
def test_simulators_stay_with_their_environment(packages: tuple[str, ...], home: str) -> None:
    paths = [path for path in SRC + MMSA if str(path.relative_to(ROOT)) != home]
    assert offenders(paths, lambda name: top(name) in packages) == []


def test_extras_are_imported_lazily() -> None:
    assert (
        offenders(
            SRC + MMSA,
            lambda name: top(name) in ("wandb", "ray", "pymongo", "bson", "gridfs", "tensorboard"),
            lazy=False,
        )
        == []
    )


# --- the plugin ---
def test_every_module_of_the_plugin_has_its_layer() -> None:
    outside = {"__init__", "__main__", "upstream", "record", "smaclite", "pkg_resources"}
    assert {path.stem for path in MMSA} - outside <= set(LAYERS)


def test_the_plugin_imports_downwards_only() -> None:
    for path in named(*LAYERS):
        below = set(LAYERS[: LAYERS.index(path.stem)])
        own = {name.removeprefix(".") for name in imports(path) if name.startswith(".")}
        assert own <= below, f"{path.stem} imports {own - below}"
        assert "mmsa" not in {top(name) for name in imports(path)}, "the plugin's own modules are imported by from ."


def test_the_algorithm_knows_no_host() -> None:
    assert offenders(named(*ALGORITHM, "config", "returns", "beside", "loops"), lambda name: top(name) in HOST) == []
    assert offenders(named("kernels"), lambda name: top(name) in HOST - {"modules"}) == []


def test_controller_and_learner_know_only_parts_of_the_host() -> None:
    forbidden = HOST - {"components", "controllers", "modules"}
    assert offenders(named("controller", "learner"), lambda name: top(name) in forbidden) == []


def test_the_learner_is_no_q_learner() -> None:
    tree = ast.parse((ROOT / "plugins" / "mmsa" / "learner.py").read_text(encoding="utf-8"))
    (learner,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "MMSALearner"]
    assert learner.bases == []


def test_only_the_upstream_host_is_run_from_the_plugin() -> None:
    paths = [path for path in MMSA if path.stem not in ("upstream", "__main__")]
    assert offenders(paths, lambda name: top(name) in ("run", "runners", "envs", "main")) == []


def test_importing_the_package_imports_no_network() -> None:
    """`import mmsa` comes with every check of a configuration; its networks come with register()."""
    init = ROOT / "plugins" / "mmsa" / "__init__.py"
    assert {name for name in imports(init, lazy=False) if name.startswith(".")} == {".config"}
