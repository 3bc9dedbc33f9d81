"""The upstream host: which checkout is taken, what is composed, refused, mended and recorded; nothing is written there.

Most of it is asked of a folder that only looks like EPyMARL; EPYMARL_PATH names a real checkout.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from support import fake_epymarl

import main
from mmsa import __main__ as command_line
from mmsa import checkout as checkouts
from mmsa import upstream

ROOT = Path(__file__).resolve().parents[2]
KEY = "env_args.key=Foraging-5x5-2p-1f-v3"
RUN = ["--config=mmsa", "--env-config=gymma", "with", KEY]
REAL = os.path.abspath(os.environ[checkouts.VARIABLE]) if os.environ.get(checkouts.VARIABLE) else ""
real = pytest.mark.skipif(not REAL, reason=f"{checkouts.VARIABLE} names no checkout of upstream EPyMARL")


@pytest.fixture(autouse=True)
def no_checkout_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(checkouts.VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return fake_epymarl.make(tmp_path / "epymarl")


@pytest.fixture
def compose(fake: Path) -> Callable[..., dict[str, Any]]:
    def composed(*words: str, algorithm: str = "mmsa") -> dict[str, Any]:
        return checkouts.compose(checkouts.find_checkout(str(fake)), algorithm, "gymma", [KEY, *words])

    return composed


def shell(*words: str, through: str = "mmsa", code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """A command line in the working directory. code: Python that runs before `python -m mmsa`."""
    start = {"mmsa": ["-P", "-m", "mmsa"], "main": [str(ROOT / "src" / "main.py")]}[through]
    if code:
        start = ["-P", "-c", f"{code}\nimport runpy; runpy.run_module('mmsa', run_name='__main__')"]
    path = {} if through == "main" else {"PYTHONPATH": str(ROOT / "plugins")}
    environment = {**os.environ, **path, **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the program itself must leave no __pycache__ behind
    command = [sys.executable, *start, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def record(folder: str = "mmsa") -> dict[str, Any]:
    """info.json of the one run that was recorded."""
    (path,) = Path("results/sacred").glob(f"{folder}/*/1/info.json")
    return json.loads(path.read_text())


# --- which checkout ---
def test_the_named_checkout_comes_first_then_the_folder_one_is_in_then_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, here, variable = (fake_epymarl.make(tmp_path / name) for name in ("named", "here", "variable"))
    with pytest.raises(checkouts.UpstreamError, match=r"--epymarl PATH.*EPYMARL_PATH.*git clone"):
        checkouts.find_checkout(None)
    monkeypatch.setenv(checkouts.VARIABLE, str(variable))
    assert checkouts.find_checkout(None).path == variable
    monkeypatch.chdir(here)
    assert checkouts.find_checkout(None).path == here
    assert checkouts.find_checkout(str(named)).path == named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src/run.py": None}, r"no checkout of EPyMARL: src/run\.py is missing"),
        ({"src/envs/gymma.py": None}, r"older than EPyMARL's port to Gymnasium: src/envs/gymma\.py is missing"),
    ],
)
def test_what_is_no_checkout_or_too_old_is_refused(tmp_path: Path, changes: dict[str, None], message: str) -> None:
    folder = fake_epymarl.make(tmp_path / "epymarl", changes)
    with pytest.raises(checkouts.UpstreamError, match=message):
        checkouts.find_checkout(str(folder))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(checkouts.UpstreamError, match="nowhere: there is no such folder"):
        checkouts.find_checkout(str(tmp_path / "nowhere"))


def test_the_host_is_named_with_its_commit(tmp_path: Path) -> None:
    folder = fake_epymarl.make(tmp_path / "epymarl", git=True)
    assert re.fullmatch(rf"upstream EPyMARL [0-9a-f]{{7}} at {folder}", str(checkouts.find_checkout(str(folder))))
    (folder / "results").mkdir()
    (folder / "results/new").touch()
    os.utime(folder / "src/run.py", (1e9, 1e9))  # git status would note the new time in its index
    before = fake_epymarl.contents(folder)
    assert re.fullmatch("[0-9a-f]{7}", checkouts.find_checkout(str(folder)).commit)
    assert fake_epymarl.contents(folder) == before
    (folder / "src/run.py").write_text("")
    assert re.fullmatch("[0-9a-f]{7}, changed", checkouts.find_checkout(str(folder)).commit)
    (folder / "inner").mkdir()
    inner = fake_epymarl.make(folder / "inner")  # not under version control itself
    assert str(checkouts.find_checkout(str(inner))) == f"upstream EPyMARL (commit unknown) at {inner}"


# --- the configuration ---
def test_layers(compose: Callable[..., dict[str, Any]]) -> None:
    config = compose("lr=0.001", "sale.dim=32", "seed=7")
    assert config["t_max"] == 200  # environment over default
    assert config["env_args"] == {"key": "Foraging-5x5-2p-1f-v3", "time_limit": 100}  # command line into environment
    own = yaml.safe_load((ROOT / "plugins/mmsa/config/mmsa.yaml").read_text())
    assert config["mixer"] == own["mixer"] and config["sale"] == own["sale"] | {"dim": 32}  # the plugin's own
    assert (config["buffer_size"], config["td_lambda"], config["use_rnn"]) == (5000, 0.0, True)  # upstream.yaml
    assert (config["lr"], config["seed"]) == (0.001, 7)


def test_upstreams_own_algorithms_get_nothing_of_ours(compose: Callable[..., dict[str, Any]]) -> None:
    config = compose(algorithm="qmix")
    files = [fake_epymarl.FILES[f"src/config/{name}.yaml"] for name in ("default", "envs/gymma", "algs/qmix")]
    keys = {key for text in files for key in yaml.safe_load(text)}
    assert config.keys() == keys | {"seed"} and config["buffer_size"] == 32


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("burnin=5", "burnin=5: no file of this checkout has the key burnin"),
        ("hiden_dim=3", r"did you mean hidden_dim\?"),
        ("t_max", "'t_max': key=value is wanted"),
        ("t_max.x=3", "t_max = 200 holds no further keys"),
        ("t_max=many", "t_max=many: a number is wanted, as 200 in the files"),
        ("use_cuda=auto", "use_cuda=auto: True or False is wanted"),
        ("use_cuda=1", "use_cuda=1: True or False is wanted"),
        ("sale.dimm=3", r"^sale\.dimm: unknown key; did you mean sale\.dim\?"),
        ("sale.dim=0", r"^sale\.dim=0: must be greater than or equal to 1"),
        ("imagination.zs=encode", r"^imagination\.zs=encode is f of .* set sale\.input=hidden"),
        ("lr=None", "lr=None: a number is wanted"),
        ("double_q=null", "double_q=None: True or False is wanted"),
        ("td_lambda=None", "td_lambda=None: a number is wanted"),
        ("target_update_interval_or_tau=1.5", "target_update_interval_or_tau=1.5: a whole number of updates"),
        ("use_rnn=False", "use_rnn=False: the world model"),
        ("hidden_dim=64.5", "hidden_dim=64.5: must be a valid integer"),
        ("mixing_embed_dim=0", "mixing_embed_dim=0: must be greater than or equal to 1"),
        ("hypernet_layers=3", "hypernet_layers=3: must be 1 or 2"),
        ("batch_size=4.5", "batch_size=4.5: must be a valid integer"),
        ("batch_size=6000", "batch_size=6000 is more than buffer_size=5000 episodes: learning would never begin"),
        ("batch_size_run=4", "batch_size_run=4: runner=episode has one environment; set runner=parallel"),
        ("td_lambda=1.5", "td_lambda=1.5: must be less than or equal to 1"),
        ("lr=-1", "lr=-1: must be greater than 0"),
        ("lr=1e400", "lr=inf: must be a finite number"),
        ("gamma=5", "gamma=5: must be less than or equal to 1"),
        ("grad_norm_clip=0", "grad_norm_clip=0: must be greater than 0"),
        ("target_update_interval_or_tau=1e400", "target_update_interval_or_tau=inf: must be a finite number"),
        ("epsilon_anneal_time=0", "epsilon_anneal_time=0: must be greater than 0"),
        ("plugin=null", "plugin=None: MMSA is this plugin's; set plugin=mmsa"),
        ("sale={'dimm':3}", r"^sale\.dimm: unknown key; did you mean sale\.dim\?"),
        ("sale={'dim':0}", r"^sale\.dim=0: must be greater than or equal to 1"),
        ("lr={'a':1}", "lr={'a': 1}: a number is wanted, as 0.0005 in the files"),
        ("env_args={'action_masks':True}", "upstream has no env_args.action_masks"),
        ("env_steps_per_update=50", "upstream has no env_steps_per_update, it makes one update for each rollout"),
        ("sequence_length=20", "upstream has no sequence_length"),
        ("burn_in=5", "upstream has no burn_in"),
        ("scale_inputs=True", "upstream has no scale_inputs, it learns from inputs as they are"),
        (
            "env_args.action_masks=True",
            "upstream has no env_args.action_masks, it leaves every action of Level-Based Foraging open",
        ),
        ("seed=-1", "seed=-1: a whole number from 0"),
        ("env_args.key=null", r"env_args\.key is missing"),
        ("evaluate=True", "evaluate=True needs checkpoint_path"),
        ("checkpoint_path=nowhere", "checkpoint_path=nowhere: no folder of saved networks"),
        ("use_wandb=True", "use_wandb=True needs wandb_team and wandb_project"),
        ("name=null", "name is missing: the algorithm's file has to name it"),
        ("name=../x", r"name='\.\./x': it names the record's folder"),
        ("local_results_path=", "local_results_path is missing: it names the results' folder"),
    ],
)
def test_what_is_wrong_is_refused(compose: Callable[..., dict[str, Any]], word: str, message: str) -> None:
    with pytest.raises(checkouts.UpstreamError, match=message):
        compose(word)


def test_a_key_that_the_checkout_no_longer_has_is_named(tmp_path: Path) -> None:
    name = "src/config/default.yaml"
    folder = fake_epymarl.make(tmp_path / "epymarl", {name: fake_epymarl.FILES[name].replace("gamma:", "discount:")})
    checkout = checkouts.find_checkout(str(folder))
    with pytest.raises(checkouts.UpstreamError, match=r"default\.yaml: gamma is missing, which MMSA reads"):
        checkouts.compose(checkout, "mmsa", "gymma", [KEY])
    checkouts.compose(checkout, "qmix", "gymma", [KEY])


def test_a_missing_map_is_asked_for_by_its_own_key(fake: Path) -> None:
    with pytest.raises(checkouts.UpstreamError, match=r"env_args\.map_name is missing"):
        checkouts.compose(checkouts.find_checkout(str(fake)), "mmsa", "sc2", ["env_args.map_name=null"])


def test_what_upstream_does_anyway_may_be_written(compose: Callable[..., dict[str, Any]]) -> None:
    """So that both hosts take the same words."""
    words = ["env_steps_per_update=episode", "sequence_length=None", "burn_in=0", "scale_inputs=False"]
    words.append("env_args.action_masks=False")
    assert compose(*words) == compose()
    assert compose(*words, "td_lambda=0.0", algorithm="qmix") == compose(algorithm="qmix")
    assert compose("td_lambda=0.6")["td_lambda"] == 0.6
    with pytest.raises(
        checkouts.UpstreamError, match="td_lambda=0.6: upstream has no td_lambda, its targets are one-step"
    ):
        compose("td_lambda=0.6", algorithm="qmix")


def test_an_update_an_episode_is_not_what_upstream_does_with_several_environments(
    compose: Callable[..., dict[str, Any]],
) -> None:
    words = ["runner=parallel", "batch_size_run=8"]
    assert compose(*words)["batch_size_run"] == 8
    with pytest.raises(checkouts.UpstreamError, match="one update for each rollout of batch_size_run episodes, here 8"):
        compose("env_steps_per_update=episode", *words)


def test_a_mapping_among_the_words_leaves_the_groups_other_keys_alone(compose: Callable[..., dict[str, Any]]) -> None:
    config = compose("sale={'dim': 32}", "env_args={'time_limit': 7}", "world_model={}")
    assert config["sale"] == compose()["sale"] | {"dim": 32} and config["world_model"] == compose()["world_model"]
    assert config["env_args"] == {"key": "Foraging-5x5-2p-1f-v3", "time_limit": 7}
    values = {"a=b": [1e400], "c.d": {"e": None}}
    assert compose(f"env_args.new={values}".replace("inf", "1e400"))["env_args"]["new"] == values  # as they are
    with pytest.raises(checkouts.UpstreamError, match=r"^sale=3: a mapping is wanted"):
        compose("sale=3")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("True", True), ("true", True), ("false", False), ("null", None), ("None", None), ("3m", "3m"),
        ("[1, 2]", [1, 2]), ("a=b", "a=b"), ("", ""),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    assert checkouts.parse_value(text) == value and type(checkouts.parse_value(text)) is type(value)


def test_names_of_files(fake: Path) -> None:
    checkout = checkouts.find_checkout(str(fake))
    for names, message in (
        ((None, "gymma"), "--config is missing; available: mmsa, qmix"),
        (("qmixx", "gymma"), "--config=qmixx: .* has no file of this name, and no path is taken; did you mean qmix"),
        (("qmix", None), "--env-config is missing; available: gymma, sc2"),
    ):
        with pytest.raises(checkouts.UpstreamError, match=message):
            checkouts.compose(checkout, *names, [])


# --- runs, in processes of their own ---
def test_a_run_is_recorded_and_nothing_is_written_in_the_checkout(tmp_path: Path) -> None:
    folder = fake_epymarl.make(tmp_path / "epymarl", git=True)
    before = fake_epymarl.contents(folder)
    done = shell(f"--epymarl={folder}", *RUN, "seed=5", "td_lambda=0.5")
    assert done.returncode == 0, done.stderr
    assert fake_epymarl.contents(folder) == before
    info = record()
    checkout = checkouts.find_checkout(str(folder))
    assert info["host"] == str(checkout) and f"host: {checkout}" in done.stderr
    assert info["test_return_mean"] == [0.5] and info["versions"]["torch"] == metadata.version("torch")
    assert info["command"] == "python -m mmsa --config=mmsa --env-config=gymma with " + f"{KEY} td_lambda=0.5 seed=5"
    (config,) = Path("results/sacred").glob("mmsa/lbforaging:Foraging-5x5-2p-1f-v3/1/config.json")
    recorded = json.loads(config.read_text())
    assert recorded["seed"] == 5 and "seed" not in recorded["env_args"]  # else each seed would be another task
    assert f"done: {config.parent}" in done.stdout
    # what the checkout lacks, each said once
    told = {
        "smaclite": "smaclite is not installed: an empty module stands in",
        "tuples": "EpisodeBatch indexed tensors with lists",
        "key": "env_args.key=Foraging-5x5-2p-1f-v3 became lbforaging:Foraging-5x5-2p-1f-v3",
    }
    if importlib.util.find_spec("smaclite") is not None:
        del told["smaclite"]
    assert len(info["mended"]) == len(told)
    assert all(done.stderr.count(text) == 1 and any(text in line for line in info["mended"]) for text in told.values())
    assert "td_lambda=0.5 is MMSA's own here" in done.stderr
    seen = info["seen"]
    assert {"mmsa_learner", "q_learner"} <= set(seen["learners"]) and seen["items"] == "tuple"
    assert (seen["seed"], seen["threads"]) == (5, 1)
    assert seen["path"][0] == str(folder / "src") and str(ROOT / "src") not in seen["path"]
    upstream.seed_everything(5)
    assert seen["drawn"] == [random.random(), np.random.rand(), float(th.rand(()))]


def test_the_command_line_of_this_tree_hands_over(fake: Path) -> None:
    Path("yaml.py").write_text("raise SystemExit('a file of the working directory was imported')")
    done = shell(f"--epymarl={fake}", *RUN, through="main")
    assert done.returncode == 0 and "MMSA's own" not in done.stderr, done.stderr
    seen = record()["seen"]
    assert seen["path"][0] == str(fake / "src") and str(ROOT / "src") not in seen["path"]
    drawn = int(re.search(r"seed=(\d+) was drawn", done.stderr)[1])  # type: ignore[index]
    assert seen["seed"] == drawn and f"seed={drawn}" in record()["command"]

    variables = {"EPYMARL_PATH": str(fake), "SACRED_MONGO_URL": "mongodb://me:secret@host/db"}
    printed = shell("--epymarl", "--print-config", *RUN, "t_max=3", through="main", **variables)
    assert yaml.safe_load(printed.stdout)["t_max"] == 3
    assert "SACRED_MONGO_URL is not read" in printed.stderr and "secret" not in printed.stderr
    wrong = shell("--epymarl", "with", "t_max=3", through="main", EPYMARL_PATH=str(fake))
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --config is missing; available: mmsa, qmix")


def test_a_failure_is_recorded_and_told(fake: Path) -> None:
    done = shell(f"--epymarl={fake}", "--config=qmix", *RUN[1:], "lr=13")
    assert done.returncode == 1 and "RuntimeError: unlucky" in done.stderr and "failed: results" in done.stdout
    (run,) = Path("results").rglob("run.json")
    assert json.loads(run.read_text())["status"] == "FAILED"


def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    """Sacred itself gives a record up at the first write that fails."""
    from mmsa.record import Record  # imports Sacred, which must first find pkg_resources in the runs above

    record = Record(tmp_path, logging.getLogger("test"))
    host = {"hostname": "here"}
    facts = {"ex_info": {"base_dir": ".", "sources": []}, "command": "main", "host_info": host, "config": {"seed": 1}}
    record.started_event(**facts, start_time=datetime(2026, 1, 1), meta_info={}, _id=None)
    folder = Path(record.dir)

    def beat(second: int, info: dict[str, Any]) -> None:
        time = datetime(2026, 1, 1, second=second)
        record.log_metrics({"loss": {"steps": [second], "values": [0.5], "timestamps": [time]}}, info)
        record.heartbeat_event(info, "", time, None)

    beat(1, {"a": [1]})
    (folder / "metrics.part").mkdir()  # in the way of one file, then of another
    beat(2, {"a": [1, 2]})
    assert list(record.unwritten) == ["metrics.json"]
    assert json.loads((folder / "metrics.json").read_text())["loss"]["steps"] == [1]
    assert json.loads((folder / "info.json").read_text()) == {"a": [1, 2]}
    (folder / "metrics.part").rmdir()
    beat(3, {"a": [1, 2, 3]})
    record.completed_event(datetime(2026, 1, 1, second=4), None)
    series = json.loads((folder / "metrics.json").read_text())["loss"]
    assert series["steps"] == [1, 2, 3] and len(series["values"]) == len(series["timestamps"]) == 3
    assert not record.unwritten and json.loads((folder / "run.json").read_text())["status"] == "COMPLETED"


def test_a_record_that_is_not_complete_is_a_failure(fake: Path) -> None:
    code = (
        "import os; replace = os.replace\n"
        "def full(part, path):\n"
        "    if str(path).endswith('metrics.json'): raise OSError(28, 'No space left on device')\n"
        "    replace(part, path)\n"
        "os.replace = full"
    )
    done = shell(f"--epymarl={fake}", *RUN, code=code)
    assert done.returncode == 1 and "failed: results" in done.stdout
    assert "the record is not complete: metrics.json could not be written" in done.stderr
    assert "metrics.json is not written, it is tried again: [Errno 28]" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_word(fake: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    # Ctrl-C is heeded also where the tests run in the background
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; runpy.run_module('mmsa', run_name='__main__')"
    command = [sys.executable, "-P", "-c", code, f"--epymarl={fake}", *RUN, "lr=14"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as run:
        while run.poll() is None and not list(Path("results").rglob("metrics.json")):
            time.sleep(0.1)
        run.send_signal(number)
        said = run.communicate(timeout=60)[0].decode()
    assert run.returncode == 128 + number and "stopped: results" in said
    (path,) = Path("results").rglob("run.json")
    assert json.loads(path.read_text())["status"] == "INTERRUPTED"


def test_a_folder_that_cannot_be_written_is_refused(fake: Path) -> None:
    Path("taken").write_text("a file")
    done = shell(f"--epymarl={fake}", *RUN, "local_results_path=taken/results")
    assert done.returncode == 2 and "local_results_path=taken/results: " in done.stderr, done.stderr
    assert "taken is no writable folder" in done.stderr


def test_networks_of_another_algorithm_are_refused(compose: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "270").mkdir()
    (tmp_path / "270" / "agent.th").touch()
    assert compose(f"checkpoint_path={tmp_path}", algorithm="qmix")["checkpoint_path"] == str(tmp_path)
    with pytest.raises(checkouts.UpstreamError, match=r"no folder of saved networks \(.*with mmsa\.th in it\)"):
        compose(f"checkpoint_path={tmp_path}")


def test_wandb_writes_to_the_results(fake: Path) -> None:
    """Its folder is named by a variable; by itself it would be the working directory, which may be the checkout."""
    code = "import atexit, os; atexit.register(lambda: print('to', os.environ.get('WANDB_DIR')))"
    words = ["use_wandb=True", "wandb_team=a", "wandb_project=b"]
    done = shell(f"--epymarl={fake}", *RUN, *words, code=code)
    assert done.returncode == 0 and f"to {Path('results').absolute()}" in done.stdout


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("Nope-v3", "env_args.key=Nope-v3: Environment `Nope` doesn't exist"),
        ("Foraging-5x5-2p-1f-v9", "env_args.key=lbforaging:Foraging-5x5-2p-1f-v9: Environment version `v9`"),
        ("nowhere:Task-v0", "env_args.key=nowhere:Task-v0: No module named 'nowhere'"),
    ],
)
def test_a_task_that_is_not_there_is_refused(fake: Path, key: str, told: str) -> None:
    done = shell(f"--epymarl={fake}", *RUN, f"env_args.key={key}")
    assert done.returncode == 2 and f"error: {told}" in done.stderr, done.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("runner=paralel", "runner=paralel: there is no such runner; did you mean parallel?"),
        ("env=gyma", "env=gyma: there is no such env; did you mean gymma?"),
    ],
)
def test_a_runner_or_environment_that_is_not_there_is_refused(fake: Path, word: str, told: str) -> None:
    done = shell(f"--epymarl={fake}", *RUN, word)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src/controllers/__init__.py": ""}, "controllers.REGISTRY is missing"),
        ({"src/learners/__init__.py": "REGISTRY = []\n"}, "learners.REGISTRY is no dict"),
        ({"src/runners/__init__.py": "REGISTRY = {'episode': None}\n"}, "runners.REGISTRY has no 'parallel'"),
        ({"src/components/episode_buffer.py": "class EpisodeBatch: ...\nReplayBuffer = EpisodeBatch\n"},
         "components.episode_buffer.EpisodeBatch.update is missing"),
        ({"src/run.py": "from components.episode_buffer import ReplayBuffer\ndef run(config): ...\n"},
         "run.run(config) does not take (_run, config, log)"),
        ({"src/utils/logging.py": "import nowhere_to_be_found\n"}, "needs nowhere_to_be_found, which is not installed"),
        ({"src/utils/logging.py": None}, "src: utils.logging is missing, which the checkout's own files import"),
    ],
)  # fmt: skip
def test_a_changed_contract_is_named(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    done = shell(f"--epymarl={fake_epymarl.make(tmp_path / 'epymarl', changes)}", *RUN)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert not Path("results").exists()


def test_a_package_that_hides_the_checkouts_is_named(tmp_path: Path) -> None:
    """As our own src does on PYTHONPATH: its utils has an __init__.py, upstream's has none."""
    fake = fake_epymarl.make(tmp_path / "epymarl", {"src/utils/__init__.py": None})
    other = tmp_path / "other/utils/__init__.py"
    other.parent.mkdir(parents=True)
    other.touch()
    path = os.pathsep.join([str(ROOT / "plugins"), str(tmp_path / "other")])
    done = shell(f"--epymarl={fake}", *RUN, PYTHONPATH=path)
    assert done.returncode == 2 and "pip install utils" not in done.stderr
    assert f"but utils comes from {other}: take that off PYTHONPATH" in done.stderr


def test_without_pkg_resources_sacred_still_records(fake: Path) -> None:
    """As with setuptools 82: here the module is hidden from the import system."""
    hidden = (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Hidden(PathFinder):\n    @classmethod\n    def find_spec(cls, name, path=None, target=None):\n"
        "        path = [p for p in path or sys.path if name != 'pkg_resources' or p.endswith('standins')]\n"
        "        return PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden\n"
    )
    done = shell(f"--epymarl={fake}", "--config=qmix", "--env-config=gymma", "with", KEY, code=hidden)
    assert done.returncode == 0, done.stderr
    told = "setuptools without pkg_resources"
    assert done.stderr.count(told) == 1 and sum(told in line for line in record("qmix")["mended"]) == 1


def test_the_stand_in_for_pkg_resources_says_what_the_real_one_does() -> None:
    spec = importlib.util.spec_from_file_location("own", upstream.STANDINS / "pkg_resources.py")
    assert spec is not None and spec.loader is not None
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    assert own.working_set.by_key["sacred"].version == metadata.version("sacred")
    torch = next(each for each in own.working_set if each.project_name == "torch")
    assert "torch" in torch._get_metadata("top_level.txt")
    assert Path(own.resource_filename("sacred", "data/mime.types")).is_file()


def test_tensorboard(fake: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install -e '.[tensorboard]'")
    done = shell(f"--epymarl={fake}", "--config=qmix", *RUN[1:], "use_tensorboard=True")
    assert done.returncode == 0, done.stderr
    assert "torch's SummaryWriter writes to" in done.stderr
    (events,) = Path("results/tb_logs/token").glob("events*")
    assert b"test_return_mean" in events.read_bytes()


# --- options ---
def test_print_config_and_list(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([f"--epymarl={fake}", *RUN, "t_max=9", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["t_max"] == 9
    assert command_line.main([f"--epymarl={fake}", "--list"]) == 0
    out = capsys.readouterr().out
    assert str(fake) in out and "mmsa, qmix" in out and "gymma, sc2" in out
    assert not any(Path().iterdir())


def test_a_reader_who_leaves_is_no_error(fake: Path) -> None:
    """python -m mmsa --list | head -0: the pipe's reader is gone before anything is printed"""
    leave = "import os, sys\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)"
    left = shell(f"--epymarl={fake}", "--list", code=leave)
    assert (left.returncode, left.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=mmsa", "t_max=3"], "'t_max=3' on the command line is not preceded by the word with"),
        (["--confg=mmsa"], "--confg=mmsa; did you mean --config?; python -m mmsa --help explains"),
    ],
)
def test_wrong_use(fake: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert command_line.main([f"--epymarl={fake}", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["--check", "--watch=x", "--resume=last", "--mongo=mongodb://u:secret@h/db", "--out=x.gif"]
)
def test_options_of_the_embedded_host_are_refused(
    word: str, fake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("the other host was started"))
    assert main.main([f"--epymarl={fake}", "--config=mmsa", "--env-config=gymma", word]) == 2
    err = capsys.readouterr().err
    assert word.partition("=")[0] in err and "not with --epymarl" in err and "secret" not in err


def test_the_variable_alone_changes_nothing(
    fake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(checkouts.VARIABLE, str(fake))
    assert main.main(["--print-config", *RUN]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["env_steps_per_update"] == 50  # the embedded host's
    monkeypatch.delenv(checkouts.VARIABLE)
    assert main.main(["--epymarl", "--config=mmsa"]) == 2
    assert "EPYMARL_PATH names; it is not set" in capsys.readouterr().err


# --- a real checkout ---
@real
def test_a_real_checkout_keeps_the_contract() -> None:
    """tests/hosts/test_contract.py in a process that has the checkout's modules instead of ours."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, "-o", "pythonpath=plugins", "tests/hosts/test_contract.py"]
    variables = {checkouts.VARIABLE: REAL, "CONTRACT_HOST": "upstream"}
    ours = {key for key in os.environ if key.startswith("PYTEST") or key == "PYTHONPATH"}
    environment = {key: value for key, value in os.environ.items() if key not in ours} | variables
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "failed" not in done.stdout


@real
def test_a_real_checkout_is_left_as_it_was() -> None:
    folder = Path(REAL).resolve()
    before = fake_epymarl.contents(folder)
    words = ["t_max=300", "test_nepisode=2", "runner=parallel", "batch_size_run=2", "save_model=True", "batch_size=4"]
    done = shell(f"--epymarl={folder}", *RUN, *words, through="main")
    assert done.returncode == 0, done.stderr
    after = fake_epymarl.contents(folder)
    assert after.keys() == before.keys() and after == before
    assert list(Path("results/models").glob("*/*/mmsa.th")) and record()["test_return_mean"]


@real
def test_mmsa_shares_its_settings_with_the_checkouts_qmix() -> None:
    mine = yaml.safe_load((ROOT / "plugins/mmsa/upstream.yaml").read_text())
    checkout = checkouts.find_checkout(REAL)
    theirs: dict[str, Any] = {}
    for name in ("default.yaml", "algs/qmix.yaml"):
        theirs |= yaml.safe_load((checkout.config / name).read_text())
    assert {key for key in mine if key not in theirs} == {"td_lambda"}
    assert {key: value for key, value in mine.items() if theirs.get(key, value) != value} == {"use_rnn": True}
