"""--watch: a recorded run plays and is filmed; what is wrong with a record is said, and nothing in it is executed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main
from envs import EPISODE_LOST
from envs.vector import SerialVectorEnv
from utils import untrusted, watch
from utils.config import available, compose, load_yaml
from utils.schema import GONE, as_before, cross_checks

ROOT = Path(__file__).resolve().parents[2]
KEY = "Foraging-5x5-2p-1f-v3"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a short run of VDN and its networks at two steps."""
    folder = tmp_path_factory.mktemp("trained")
    words = f"--config=vdn --env-config=gymma with env_args.key={KEY} env_args.time_limit=6 t_max=150 seed=3"
    more = f"save_model=True save_model_interval=100 test_nepisode=1 local_results_path={folder}/results"
    assert main.main([*words.split(), *more.split()]) == 0
    return folder / "results"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in the working directory: the record's folder, as of a run with older keys. Its
    local_results_path no longer says where it is."""
    shutil.copytree(trained, tmp_path / "moved")
    record = tmp_path / f"moved/sacred/vdn/{KEY}/1"
    change(record, local_results_path="elsewhere")
    path = record / "config.json"
    before = as_before(json.loads(path.read_text()))
    assert "action_masks" not in before["env_args"]
    path.write_text(json.dumps(before | GONE))
    monkeypatch.chdir(tmp_path)
    return record


def change(record: Path, **values: Any) -> None:
    """Puts these values into the record's configuration."""
    path = record / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(capsys: pytest.CaptureFixture[str], record: Path, *words: str) -> str:
    """The message with which watching is refused; no film is left."""
    capsys.readouterr()
    assert main.main(["--watch", str(record), *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and "Traceback" not in output.err and "film" not in output.out
    assert not list(record.glob("*.gif")) and not list(record.glob(".watch*"))
    return output.err


def pictures(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray((film.seek(i), film.convert("RGB"))[1]) for i in range(film.n_frames)]


def durations(path: Path) -> list[int]:
    with Image.open(path) as film:
        return [(film.seek(i), film.info["duration"])[1] for i in range(film.n_frames)]


# --- what it does ---
def test_a_run_is_filmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--watch", str(run), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("episode")]
    steps = [int(line.split(", ")[1].split()[0]) for line in lines]
    assert len(steps) == 2 and all(1 <= n <= 6 for n in steps) and f"film: {run / 'watch.gif'}" in out
    frames = pictures(run / "watch.gif")
    assert len(frames) == sum(n + 1 for n in steps)  # the beginning and every step; the held last one is one picture
    assert sum(durations(run / "watch.gif")) == 200 * (sum(n + 5 for n in steps))
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    assert not list(run.glob(".watch*"))


def test_the_saved_policy_plays_and_not_another(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of the last step, or of the one that was asked for; greedy; the seed decides where it begins."""
    loaded: list[Path] = []
    load = watch.load_policy

    def spy(config: Any, checkpoint: Path) -> Any:
        loaded.append(checkpoint)
        runner = load(config, checkpoint)
        saved = watch.import_module("torch").load(checkpoint / "agent.th", weights_only=True)
        own = runner.mac.agent.state_dict()
        assert saved.keys() == own.keys() and all((saved[key] == own[key]).all() for key in saved)
        return runner

    monkeypatch.setattr(watch, "load_policy", spy)
    films = []
    steps = sorted(int(path.name) for path in (run.parents[3] / "models").glob("*/*") if path.is_dir())
    assert len(steps) == 2
    for words in ([], [], ["with", "seed=4"], ["with", f"load_step={steps[0]}"]):
        assert main.main(["--watch", str(run), *words]) == 0
        films.append((run / "watch.gif").read_bytes())
        change(run, evaluation_epsilon=1.0)  # the run's tests were random: what is watched is greedy all the same
    assert films[0] == films[1] != films[2]
    assert [int(path.name) for path in loaded] == [steps[1], steps[1], steps[1], steps[0]]


@pytest.mark.parametrize(("word", "more"), [("load_step=0", ""), ("load_step=999", ", the nearest to load_step=999")])
def test_the_step_that_is_taken_is_said(run: Path, capsys: pytest.CaptureFixture[str], word: str, more: str) -> None:
    last = max(int(path.name) for path in (run.parents[3] / "models").glob("*/*") if path.is_dir())
    assert main.main(["--watch", str(run), "with", word]) == 0
    assert f"networks: step {last}{more}\n" in capsys.readouterr().out


def test_a_policy_that_draws_its_actions_in_tests_plays_greedily(run: Path) -> None:
    values = compose("mappo", "gymma", [f"env_args.key={KEY}", "seed=1", "local_results_path=elsewhere"])
    assert values["action_selector"] == "soft_policies"
    change(run, **{**values, "test_greedy": False})
    config, _ = watch.replay_config(run, 1)
    assert config["action_selector"] == "multinomial" and config["test_greedy"] is True
    config, _ = watch.replay_config(run, 1, ["action_selector=soft_policies"])
    assert config["action_selector"] == "soft_policies"


def test_a_policy_that_learns_from_old_episodes_is_watched_as_it_is_trained() -> None:
    """As an own algorithm may have it; what is fixed in watching contradicts none of its keys."""
    config = compose("mappo", "gymma", [f"env_args.key={KEY}"])
    config |= {"learner": "own", "env_steps_per_update": 50, "batch_size": 4, "buffer_size": 100}
    assert (
        cross_checks(config) == {} and cross_checks(config | watch.FIXED | {"render": False, "evaluate": False}) == {}
    )


def test_the_networks_own_folder_and_a_folder_above(run: Path) -> None:
    (networks,) = (run.parents[3] / "models").iterdir()
    assert main.main(["--watch", str(networks), "--out", "a.gif"]) == 0
    assert main.main(["--watch", str(run.parents[1]), "--out", "b.gif"]) == 0
    assert len(pictures(Path("a.gif"))) == len(pictures(Path("b.gif")))


def test_a_record_alone_finds_its_networks_where_they_were_saved(run: Path, tmp_path: Path) -> None:
    change(run, local_results_path=str(run.parents[3]))
    record = json.loads((run / "config.json").read_text()), json.loads((run / "info.json").read_text())
    (tmp_path / "run.json").touch()
    found = watch.find_networks(tmp_path, *record)
    assert found.parent == run.parents[3] / "models"
    assert untrusted.root_of(run) == run.parents[3] and untrusted.root_of(Path("/run")) is None


def test_mp4(run: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    from imageio.v3 import imread

    assert main.main(["--watch", str(run), "--out", "film.mp4"]) == 0
    film = imread("film.mp4")
    assert film.ndim == 4 and len(film) > 5


def test_starcraft_saves_its_replay(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a battle has no pictures, its replay is asked for, after the episodes."""
    asked: list[int] = []
    monkeypatch.setattr(watch, "REPLAYS", ("gymma",))
    monkeypatch.setattr(SerialVectorEnv, "render", lambda self: (_ for _ in ()).throw(NotImplementedError("none")))
    monkeypatch.setattr(SerialVectorEnv, "save_replay", lambda self: asked.append(self._group.t[0]))
    assert main.main(["--watch", str(run)]) == 0
    assert len(asked) == 1 and asked[0] > 0 and not list(run.glob("*.gif"))
    assert "replay" in capsys.readouterr().out


def test_a_battle_that_the_simulator_lost_is_no_episode(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []
    step = SerialVectorEnv.step

    def breaking(self: SerialVectorEnv, *given: Any) -> Any:
        steps.append(1)
        ended = step(self, *given)
        if len(steps) > 3:
            return ended
        self.truncated[0] = len(steps) == 3
        return [(0, {EPISODE_LOST: 1.0})] if len(steps) == 3 else ended

    monkeypatch.setattr(SerialVectorEnv, "step", breaking)
    assert main.main(["--watch", str(run)]) == 0
    said = capsys.readouterr().out
    assert "episode 1: the simulator broke down, another one is played\n" in said
    assert said.count("episode 1: return ") == 1 and "episode 2" not in said and EPISODE_LOST not in said


# --- what it refuses ---
def test_no_networks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run.parents[3] / "models")
    assert "no networks are saved yet" in refused(capsys, run)
    change(run, save_model=False)
    message = refused(capsys, run)
    assert "has saved no networks" in message and "save_model=True" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episodes", "0"], "--episodes=0"),
        (["--episodes", "two"], "invalid int value"),
        (["--out", "film.avi"], ".gif or .mp4"),
        (["--out", "nowhere/film.gif"], "no place for a new file"),
        (["with", "runner=parallel"], "--watch sets runner itself"),
        (["with", "seed=-1"], "seed = -1 (the command line)"),
        (["with", "sed=1"], "did you mean seed?"),
        (["--config=vdn"], "--config: not with --watch"),
        (["--print-config"], "--print-config: not with --watch"),
        (["seed=1"], "write: with seed=1"),
    ],
)
def test_wrong_use(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refused(capsys, run, *words)


def test_options_of_watch_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--config=vdn", "--env-config=gymma", "--out", "x.gif"]) == 2
    assert capsys.readouterr().err == "error: --out: only with --watch\n"
    assert main.main(["--config=vdn", "--env-config=gymma", "--trust", "x"]) == 2
    assert capsys.readouterr().err == "error: --trust: only with --watch or --resume\n"


def test_no_run(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such folder" in refused(capsys, tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert "no run is recorded" in refused(capsys, tmp_path / "empty")
    shutil.copytree(run, run.parent / "2")
    assert "2 runs are in it" in refused(capsys, run.parent)
    (networks,) = (run.parents[3] / "models").iterdir()
    step = next(path for path in networks.iterdir() if path.is_dir())
    assert f"load_step={step.name}" in refused(capsys, step)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "a mapping"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"seed": 1}', "missing"),
    ],
)
def test_a_damaged_record(run: Path, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    (run / "config.json").write_text(content)
    info = json.loads((run / "info.json").read_text())
    assert message in refused(capsys, run)
    assert info["unique_token"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 7}, "gamma = 7 ("),
        ({"gama": 0.9}, "did you mean gamma?"),
        ({"hidden_dim": 32}, "they were trained with hidden_dim="),
        ({"hidden_dim": 10**15}, "must be a whole number from 1 to 65536"),
        ({"agent": "os"}, "there is no such agent"),
        ({"seed": None}, "with seed=1"),
        ({"env": "matrix", "env_args": {"key": "climbing"}}, f"they were trained with env=gymma, env_args.key={KEY}"),
    ],
)
def test_a_changed_record(run: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], message: str) -> None:
    change(run, **values)
    assert message in refused(capsys, run)


@pytest.mark.parametrize("more", ["evaluate=True", "t_max=1000"])
def test_networks_of_another_algorithm_begin_no_run(run: Path, capsys: pytest.CaptureFixture[str], more: str) -> None:
    (networks,) = (run.parents[3] / "models").iterdir()
    words = ["--config=qmix", "--env-config=gymma", "with", f"env_args.key={KEY}", f"checkpoint_path={networks}", more]
    assert main.main(words) == 2
    error = capsys.readouterr().err
    assert "these networks cannot be loaded with this configuration (" in error and "Traceback" not in error
    assert "; they were trained with name=vdn, mixer=vdn" in error and len(error) < 800
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("more", "refused_key"),
    [
        (["evaluate=True", "scale_inputs=True"], "scale_inputs=True"),
        (["t_max=1000", "scale_inputs=True"], "scale_inputs=True"),
        (["t_max=1000", "standardise_rewards=False"], "standardise_rewards=False"),
        (["evaluate=True", "standardise_rewards=False"], ""),
    ],
    ids=str,
)
def test_networks_of_other_numbers_begin_no_run(
    run: Path, capsys: pytest.CaptureFixture[str], more: list[str], refused_key: str
) -> None:
    (networks,) = (run.parents[3] / "models").iterdir()
    trained = json.loads((networks / "config.json").read_text())
    words = ["--config=vdn", "--env-config=gymma", "with", f"env_args.key={KEY}", f"hidden_dim={trained['hidden_dim']}"]
    status = main.main([*words, f"checkpoint_path={networks}", "test_nepisode=1", *more])
    error = capsys.readouterr().err
    if refused_key:
        before = trained[refused_key.partition("=")[0]]
        assert status == 2 and f"{refused_key}: the networks in {networks} were trained with {before}; set " in error
        assert not Path("results").exists()
    else:
        assert status == 0, error


@pytest.mark.parametrize("token", ["../../../../etc", "/etc", "", "a/../../b"])
def test_a_token_that_leads_elsewhere(run: Path, capsys: pytest.CaptureFixture[str], token: str) -> None:
    (run / "info.json").write_text(json.dumps({"unique_token": token}))
    assert "names no folder of saved networks" in refused(capsys, run)


def test_published_runs_keep_no_networks(capsys: pytest.CaptureFixture[str]) -> None:
    published = next(iter((ROOT / "results").glob("*/runs/**/run.json"))).parent
    assert "published runs have none" in refused(capsys, published)


@pytest.mark.parametrize("how", ["plugin", "plugin file", "env_module", "env_module file", "key"])
def test_code_that_a_record_names_is_not_imported(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Only after --trust, by its name."""
    evil = tmp_path / "watch_evil.py"
    evil.write_text("from pathlib import Path\nPath('executed').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = str(evil) if how.endswith("file") else "watch_evil"
    env_args = json.loads((run / "config.json").read_text())["env_args"]
    change(
        run,
        **{
            "plugin": {"plugin": name},
            "plugin file": {"plugin": name},
            "env_module": {"env_module": name},
            "env_module file": {"env_module": name},
            "key": {"env_args": {**env_args, "key": f"{name}:{KEY}"}},
        }[how],
    )
    for words in ([], ["--trust", "another"]):
        assert f"--trust {name}" in refused(capsys, run, *words)
    assert not Path("executed").exists() and "watch_evil" not in sys.modules
    main.main(["--watch", str(run), "--trust", name])
    assert Path("executed").exists()
    sys.modules.pop("watch_evil", None)


def test_weights_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pickle in the place of the networks is not executed."""
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path("executed").touch, ())

    for path in (run.parents[3] / "models").glob("*/*/agent.th"):
        path.write_bytes(pickle.dumps(Evil(), protocol=2))  # torch.load warns of others before it refuses them
    assert "these networks cannot be loaded" in refused(capsys, run)
    assert not Path("executed").exists()


def test_an_environment_without_pictures(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SerialVectorEnv, "render", lambda self: (_ for _ in ()).throw(NotImplementedError("no pictures"))
    )
    assert "no pictures: it cannot be watched" in refused(capsys, run)


def test_pictures_that_fail(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SerialVectorEnv, "render", lambda self: 1 / 0)
    assert "render() of lbforaging 2.0.0 failed: ZeroDivisionError" in refused(capsys, run)


def test_half_a_film_is_not_left(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    render: Callable[..., Any] = SerialVectorEnv.render

    def interrupted(self: Any) -> Any:
        shown.append(1)
        if len(shown) == 4:
            raise KeyboardInterrupt
        return render(self)

    monkeypatch.setattr(SerialVectorEnv, "render", interrupted)
    assert main.main(["--watch", str(run)]) == 130
    assert not list(run.glob("*.gif")) and not list(run.glob(".watch*"))


def test_examples_and_own_plugins_are_known() -> None:
    for plugin in ("mmsa", "examples/my_mixer.py"):
        own = {"plugin": plugin, "env_module": str(ROOT / "examples" / "my_env.py")}
        assert list(untrusted.named_code(own)) == []
    for name in ("a\0.py", "a" * 5000 + ".py"):
        assert list(untrusted.named_code({"plugin": name})) == [("plugin", name)]
    found = list(untrusted.named_code({"plugin": "../mmsa", "env": "gymma", "env_args": {"key": "os:x"}}))
    assert found == [("plugin", "../mmsa"), ("env_args.key", "os")]


def test_modules_that_experiments_name_are_known() -> None:
    algorithms = [of for path in available("experiments").values() for of in load_yaml(path)["algorithms"].values()]
    modules = {of["overrides"]["env_module"] for of in algorithms if "env_module" in of.get("overrides", {})}
    assert modules and all(list(untrusted.named_code({"env_module": module})) == [] for module in modules)
    assert list(untrusted.named_code({"env_module": "results/mine.py"})) == [("env_module", "results/mine.py")]
