"""Composition and checks of the configuration."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import learners
import runners
from components import action_selectors
from envs.gymma import GymmaArgs
from experiments.publish import LEFT_OUT
from utils import config, hosts, schema
from utils.config import ConfigError, complete, compose, load_yaml, parse_override, parse_value

ROOT = Path(__file__).resolve().parents[2]
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=8,
)
PAIRS = [(alg, env) for alg in config.available("algs") for env in config.available("envs")]


# --- default.yaml ---
def test_default_yaml_and_schema_have_the_same_keys_in_the_same_order() -> None:
    assert list(load_yaml(ROOT / "config" / "default.yaml")) == list(schema.HostConfig.model_fields)


def test_keys_that_came_later_have_a_value_that_they_may_have() -> None:
    config = compose("qmix", "matrix")
    assert complete(config | schema.LATER, {}) == config | schema.LATER and schema.LATER.keys() <= config.keys()
    assert schema.LATER_ARGS.keys() == {"gymma"}
    foraging = compose("qmix", "gymma", ["env_args.key=Foraging-5x5-2p-1f-v3"])
    assert complete(schema.as_today(schema.as_before(foraging)), {}) == foraging
    assert schema.LATER_ARGS["gymma"].items() <= foraging["env_args"].items()


def test_no_key_that_came_later_is_forgotten() -> None:
    """Else every published run would be of another configuration."""
    published = [json.loads(path.read_text()) for path in (ROOT / "results").rglob("runs/**/config.json")]
    wanted = schema.HostConfig.model_fields.keys() - LEFT_OUT - schema.LATER.keys()
    assert len(published) > 200 and [wanted - one.keys() for one in published if wanted - one.keys()] == []
    foraging = [one["env_args"].keys() for one in published if one["env"] == "gymma"]
    wanted = GymmaArgs.model_fields.keys() - schema.LATER_ARGS["gymma"].keys()
    assert len(foraging) > 200 and [wanted - one for one in foraging if wanted - one] == []


def test_every_key_of_default_yaml_has_a_comment() -> None:
    lines = [line for line in (ROOT / "config" / "default.yaml").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if "  # " not in line and " # " not in line] == []


@pytest.mark.parametrize(("algorithm", "environment"), PAIRS)
def test_every_pair_composes(algorithm: str, environment: str) -> None:
    needed = {"gymma": ["env_args.key=Foraging-5x5-2p-1f-v3"]}
    composed = config.compose(algorithm, environment, needed.get(environment, ()))
    assert composed["name"]
    assert yaml.safe_load(yaml.safe_dump(composed)) == composed


def test_every_config_file_explains_itself() -> None:
    files = {**config.available("algs"), **config.available("envs")}
    assert [name for name, path in files.items() if not config.describe(path)] == []


# --- values ---
@given(PLAIN)
def test_python_literals_come_back(value: object) -> None:
    assert parse_override(f"a.b={value!r}") == (("a", "b"), value)


@given(PLAIN)
def test_json_comes_back(value: object) -> None:
    assert parse_override(f"key={json.dumps(value, ensure_ascii=False)}") == (("key",), value)


@given(st.text())
def test_any_text_is_a_value(text: str) -> None:
    json.dumps(parse_value(text))  # plain types, no exception


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("true", True),
        ("off", False),
        ("None", None),
        ("null", None),
        ("1e-3", 1e-3),
        ("5", 5),
        ("-0.5", -0.5),
        ("[1,2]", [1, 2]),
        ("(1, 2)", [1, 2]),
        ("[a, b]", ["a", "b"]),
        ("{a: 1e-4}", {"a": 1e-4}),
        ("'5'", "5"),
        ("a=b=c", "a=b=c"),
        ("", ""),
        ("#5", "#5"),
        ("rware:rware-tiny-2ag-v2", "rware:rware-tiny-2ag-v2"),
        ("2026-01-01", "2026-01-01"),
        ("*x", "*x"),
        ("!!python/object/apply:os.system [ls]", "!!python/object/apply:os.system [ls]"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_values(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_folders_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "y" / "100").mkdir(parents=True)
    composed = config.compose("vdn", "matrix", ["local_results_path=~/x", "checkpoint_path=~/y"])
    assert composed["local_results_path"] == str(tmp_path / "x")
    assert composed["checkpoint_path"] == str(tmp_path / "y")


@pytest.mark.parametrize("text", ["t_max", "=5", "env_args.=5", ".key=1", "a..b=1"])
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value is wanted"):
        parse_override(text)


# --- layers ---
def test_layers_override_each_other(tree: Path, compose: Callable[..., dict]) -> None:
    (tree / "config/algs/vdn.yaml").write_text("name: vdn\nstandardise_rewards: false\nenv_args: {time_limit: 7}\n")
    composed = compose("lr=1e-3", "env_args.time_limit=9")
    assert composed["standardise_rewards"] is False  # default < environment < algorithm
    assert composed["lr"] == 1e-3
    assert composed["env_args"]["key"] == "Foraging-5x5-2p-1f-v3"  # groups are merged
    assert composed["env_args"]["time_limit"] == 9


def test_the_last_override_wins(compose: Callable[..., dict]) -> None:
    assert compose("seed=1", "seed=2")["seed"] == 2


def test_composing_twice_shares_nothing(compose: Callable[..., dict]) -> None:
    compose()["env_args"]["key"] = "changed"
    assert compose()["env_args"]["key"] == "Foraging-5x5-2p-1f-v3"


# --- problems ---
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("gama=0.9", ["gama = 0.9", "the command line", "did you mean gamma?"]),
        ("gamma=1.5", ["gamma = 1.5", "a number from 0 to 1"]),
        ("gamma=high", ["gamma = 'high'", "a number"]),
        ("t_max=0", ["t_max = 0", ">= 1"]),
        ("t_max=1.5", ["t_max = 1.5", "a whole number"]),
        ("t_max=2e4", ["t_max = 20000.0", "a whole number", ", written without fraction or exponent: 20000"]),
        ("double_q=1", ["double_q = 1", "true or false"]),
        ("batch_size=true", ["batch_size = True", "a whole number"]),
        ("hypernet_layers=3", ["hypernet_layers = 3", "from 1 to 2"]),
        ("hypernet_layers=true", ["hypernet_layers = True", "a whole number"]),
        ("hidden_dim=99999999999", ["hidden_dim = 99999999999", "from 1 to 65536"]),
        ("torch_threads=99999999999", ["torch_threads = 99999999999", "from 1 to 1024"]),
        ("env_timeout=1e-300", ["env_timeout = 1e-300", "from 0.1 to 86400"]),
        ("optim_alpha=0.9", ["optim_alpha = 0.9", "leave it out, or declare it in the Config of a plugin"]),
        ("runner=serial", ["runner = 'serial'", "available: episode, parallel"]),
        ("env_steps_per_update=episodes", ["env_steps_per_update = 'episodes'", "'episode'"]),
        ("seed=-1", ["seed = -1", "from 0 to 4294967295 or null"]),
        ("lr=1e400", ["lr = inf"]),
        ("mixer=qmixx", ["mixer = 'qmixx'", "did you mean qmix?", "available: ", "vdn"]),
        ("name=../../x", ["name = '../../x'", "must be a word of letters, digits, _ . and -"]),
        ("wandb_project=my project", ["wandb_project = 'my project'", "must be a word of letters, digits, _ . and -"]),
        ("seed=010", ["seed = '010'", "a whole number"]),
        ("lr=1:30.5", ["lr = '1:30.5'", "a number"]),
        ("env_arg.key=x", ["env_arg.key = 'x' (the command line)", "did you mean env_args.key?"]),
        ("lernr.lr=1", ["lernr.lr = 1", "did you mean lr?"]),
        ("lr_.a={b: 1}", ["lr_.a = {'b': 1} (the command line): unknown key"]),
        ("env_args.time_limt=5", ["env_args.time_limt = 5", "did you mean env_args.time_limit?"]),
        ("env_args.sight=3", ["env_args.sight = 3", "unknown key; env_args.make.sight=3 passes it to"]),
        ("env_args.pretrained_wrapper=null", ["env_args.pretrained_wrapper = None", "unknown key; upstream's trained"]),
        ("save_replay=true", ["save_replay = True", "unknown key; --watch RUN plays"]),
        ("env_args=5", ["env_args = 5", "a mapping"]),
        ("t_max.inner=5", ["t_max.inner=5", "holds no further keys"]),
        ("time_limit=5", ["time_limit = 5", "did you mean env_args.time_limit?"]),
        ("plugin=no_such_package", ["plugin = 'no_such_package'", "PYTHONPATH, or no_such_package/ itself into"]),
        ("plugin=json", ["'json' is no plugin"]),
        # several keys together
        ("batch_size_run=2", ["batch_size_run = 2", "runner=parallel"]),
        ("env_workers=2", ["env_workers = 2", "batch_size_run=1"]),
        ("evaluate=true", ["evaluate = True", "needs checkpoint_path"]),
        ("checkpoint_path=nowhere", ["checkpoint_path = 'nowhere'", "there is no folder nowhere"]),
        ("burn_in=3", ["burn_in = 3", "needs sequence_length"]),
        ("action_selector=multinomial", ["action_selector = 'multinomial'", "epsilon_greedy takes action values"]),
        ("action_selector=soft_policies", ["action_selector = 'soft_policies'", "agent_output_type=q"]),
        ("render=true", ["render = True", "needs evaluate=True"]),
        ("buffer_size=8", ["batch_size = 32", "buffer_size=8"]),
        ("epsilon_start=0.01", ["epsilon_finish = 0.05", "epsilon_start=0.01"]),
        ("common_reward=false", ["common_reward = False", "mixer=vdn"]),
        ("target_update_interval_or_tau=1.5", ["target_update_interval_or_tau = 1.5"]),
        ("critic_type=cv_critik", ["critic_type = 'cv_critik'", "did you mean cv_critic?"]),
        ("entropy_coef=-1", ["entropy_coef = -1"]),
        ("env_steps_per_update=batch", ["env_steps_per_update = 'batch'", "learner=ppo_learner"]),
        (f"checkpoint_path={'x' * 300}", ["checkpoint_path = 'xxx", "there is no folder xxx"]),
        (f"env_module={'x' * 300}.py", ["there is no file "]),
        (f"plugin={'x' * 300}", ["there is no package 'xxx"]),
    ],
)
def test_a_problem_names_key_value_and_cure(
    problems: Callable[..., list[str]], override: str, parts: list[str]
) -> None:
    (problem,) = problems(override)
    assert all(part in problem for part in parts), problem


def test_a_mapping_is_from_where_its_keys_were_given_last() -> None:
    with pytest.raises(ConfigError) as error:  # config/envs/gymma.yaml has env_args.make, an empty one
        config.compose("vdn", "gymma", ["env_args.key=Foraging-5x5-2p-1f-v3", "env_args.make.max_steps=5"])
    assert error.value.problems[0].startswith("env_args.make = {'max_steps': 5} (the command line): max_steps ")


def test_upstreams_keys_that_have_a_word_of_their_own_are_no_keys_here() -> None:
    assert not set(config.UPSTREAM) & set(schema.HostConfig.model_fields)


def test_on_policy_code_of_others_is_not_trained_on_old_episodes(
    compose: Callable[..., dict], problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMA of upstream has buffer_size = batch_size = batch_size_run; MADDPG replays."""
    monkeypatch.setitem(learners.REGISTRY, "coma_learner", object)
    words = ["learner=coma_learner", "agent_output_type=pi_logits", "action_selector=multinomial", "mixer=null"]
    on_policy = [*words, "batch_size=10", "buffer_size=10", "batch_size_run=10", "runner=parallel"]
    for every in ("50", "episode"):
        (problem,) = problems(*on_policy, f"env_steps_per_update={every}")
        assert "env_steps_per_update = " in problem and "must be batch with policies (pi_logits)" in problem
    assert compose(*on_policy, "env_steps_per_update=batch")["env_steps_per_update"] == "batch"
    assert compose(*words)["env_steps_per_update"] == 50


def test_a_plugins_own_selector_takes_what_it_likes(
    compose: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(action_selectors.REGISTRY, "boltzmann", object)
    assert compose("action_selector=boltzmann")["agent_output_type"] == "q"
    assert compose(*PPO, "action_selector=boltzmann")["agent_output_type"] == "pi_logits"


def test_a_plugins_own_runner(
    compose: Callable[..., dict], problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runners.REGISTRY, "mine", object)
    assert compose("runner=mine", "batch_size_run=3")["runner"] == "mine"
    (problem,) = problems("runner=mine", "pipeline=true")
    assert "pipeline = True" in problem and "must be false with runner=mine" in problem


def test_keys_that_do_not_go_together(tree: Path, problems: Callable[..., list[str]]) -> None:
    (problem,) = problems("agent_output_type=pi_logits", "action_selector=multinomial")
    assert "agent_output_type = 'pi_logits'" in problem and "learner=q_learner" in problem
    (problem,) = problems("sequence_length=5", "obs_last_action=true")
    assert "burn_in = 0" in problem and "obs_last_action" in problem
    (tree / "saved/models/500").mkdir(parents=True)
    (problem,) = problems("checkpoint_path=saved/models", "t_max=400")
    assert "t_max = 400" in problem and "500" in problem
    (problem,) = problems("checkpoint_path=saved/models/500")
    assert "no subfolder named by a step number" in problem and "name the folder above" in problem
    (tree / "sacred/qmix/game/1").mkdir(parents=True)
    (tree / "sacred/qmix/game/1/run.json").write_text("{}")
    (problem,) = problems("checkpoint_path=sacred/qmix/game/1")
    assert "is the record of a run" in problem and "unique_token" in problem and "above" not in problem


PPO = [
    "learner=ppo_learner",
    "mixer=null",
    "agent_output_type=pi_logits",
    "action_selector=soft_policies",
    "env_steps_per_update=batch",
    "batch_size=10",
    "buffer_size=10",
]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("env_steps_per_update=50", ["env_steps_per_update = 50", "must be batch"]),
        ("buffer_size=5000", ["buffer_size = 5000", "batch_size=10"]),
        ("batch_size_run=3 runner=parallel", ["batch_size = 10", "a multiple of batch_size_run=3"]),
        ("agent_output_type=q action_selector=epsilon_greedy", ["agent_output_type = 'q'", "'pi_logits'"]),
        ("mixer=vdn", ["mixer = 'vdn'", "must be null"]),
        ("sequence_length=5", ["sequence_length = 5", "whole episodes"]),
        ("pipeline=true", ["pipeline = True", "must be false", "learner=ppo_learner"]),
    ],
)
def test_what_ppo_asks_of_its_settings(
    compose: Callable[..., dict], problems: Callable[..., list[str]], override: str, parts: list[str]
) -> None:
    assert compose(*PPO)["learner"] == "ppo_learner"
    (problem,) = problems(*PPO, *override.split())
    assert all(part in problem for part in parts), problem


def test_a_plugins_learner_that_trains_as_the_hosts_asks_the_same(
    compose: Callable[..., dict], problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Same(learners.PPOLearner):
        pass

    class Own(learners.PPOLearner):
        def train(self, *batch: object) -> None:
            pass

    class Values(learners.QLearner):
        pass

    for name, learner in {"same": Same, "own": Own, "values": Values}.items():
        monkeypatch.setitem(learners.REGISTRY, name, learner)
    (problem,) = problems(*PPO, "learner=same", "env_steps_per_update=50")
    assert "env_steps_per_update = 50" in problem and "must be batch with learner=same" in problem
    assert compose(*PPO, "learner=own", "env_steps_per_update=50", "buffer_size=99")["learner"] == "own"
    (problem,) = problems("learner=values", "agent_output_type=pi_logits", "action_selector=multinomial")
    assert "must be 'q' with learner=values" in problem


def test_batches_of_new_episodes_for_a_plugins_learner(
    compose: Callable[..., dict], problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(learners.REGISTRY, "my_ppo", object)
    own = [*PPO, "learner=my_ppo"]
    assert compose(*own)["env_steps_per_update"] == "batch"
    wrong = problems(*own, "buffer_size=5000", "runner=parallel", "batch_size_run=3", "pipeline=true")
    assert len(wrong) == 3 and all("with env_steps_per_update=batch" in problem for problem in wrong), wrong


CONFIG = "from pydantic import BaseModel as Config\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def register(:", r"'mine_\w+' cannot be imported: SyntaxError: "),
        (f"{CONFIG}def register(): import components.standarize_stream", "standarize_stream'; what code written"),
        (f"{CONFIG}def register(): import no_such_thing", r"register\(\) of 'mine_\w+': .*'no_such_thing'$"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    name = f"mine_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(hosts.PluginError, match=words):
        hosts.register_plugin(name)


# --- a plugin's own keys ---
@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A plugin `mine` with the key `own`, and a bound of its own for the host's `lr`; it registers nothing."""

    class Config(BaseModel):
        own: int = 1
        lr: float = Field(1.0, le=0.1)

    plugin = SimpleNamespace(Config=Config, register=lambda: None)
    monkeypatch.setitem(sys.modules, "mine", plugin)
    monkeypatch.setattr(hosts, "_registered", set())
    return plugin


def test_no_key_is_left_out_because_a_plugins_config_says_nothing_of_further_ones(
    plugin: SimpleNamespace, compose: Callable[..., dict], problems: Callable[..., list[str]]
) -> None:
    assert compose("plugin=mine", "own=2")["own"] == 2
    (problem,) = problems("plugin=mine", "onw=2")
    assert "onw = 2" in problem and "did you mean own?" in problem


def test_a_plugins_config_may_narrow_a_key_of_the_host_and_does_not_replace_its_value(
    plugin: SimpleNamespace, compose: Callable[..., dict], problems: Callable[..., list[str]]
) -> None:
    assert compose("plugin=mine", "lr=0.002")["lr"] == 0.002
    (problem,) = problems("plugin=mine", "lr=0.2")
    assert "lr = 0.2" in problem and "<= 0.1" in problem


def test_a_plugin_that_cannot_register_says_why(plugin: SimpleNamespace, problems: Callable[..., list[str]]) -> None:
    def register() -> None:
        raise ValueError("learners.REGISTRY already has another 'mine'")

    plugin.register = register
    (problem,) = problems("plugin=mine")
    assert "plugin = 'mine'" in problem and "already has another 'mine'" in problem


def test_all_problems_are_reported(problems: Callable[..., list[str]]) -> None:
    assert len(problems("gama=1", "lr=0", "no_value", "t_max.x=1", "env_args.keyy=2")) == 5


def test_a_problem_names_its_file(tree: Path, problems: Callable[..., list[str]]) -> None:
    (tree / "config/algs/vdn.yaml").write_text("name: vdn\nmixr: vdn\n")
    (problem,) = problems()
    assert "config/algs/vdn.yaml" in problem and "did you mean mixer?" in problem


def test_cuda_that_is_not_there(problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch as th

    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    (problem,) = problems("use_cuda=true")
    assert "use_cuda = True" in problem and "use_cuda=auto" in problem


def test_a_key_of_another_algorithm(tree: Path, problems: Callable[..., list[str]]) -> None:
    (tree / "config/algs/mine.yaml").write_text("name: mine\nplugin: mine\nsale: {enabled: true}\nlast: 1\n")
    (tree / "config/algs/broken.yaml").write_text("name: [\n")
    said = "(the command line): unknown key; it belongs to --config=mine"
    assert problems("sale.enabled=False", "last=2") == [f"sale.enabled = False {said}", f"last = 2 {said}"]


# --- files ---
@pytest.mark.parametrize("name", ["../default", "algs/vdn", "/etc/passwd", "..", ".hidden", "a\\b", "vdn.yaml/.."])
def test_names_stay_within_the_config_folders(tree: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name without path|no such algorithm"):
        config.compose(name, "lbf")


def test_a_missing_file_lists_what_there_is(tree: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.compose("vdm", None)
    assert sorted(caught.value.problems) == [
        "--config=vdm: there is no such algorithm; did you mean vdn?; available: vdn",
        "--env-config is missing: it names the environment; available: lbf",
    ]


@pytest.mark.parametrize(
    ("files", "instead"),
    [
        (("mappo_ns", "gymma"), "--config=mappo with agent=rnn_ns obs_agent_id=False critic_type=cv_critic_ns"),
        (("iql_ns", "gymma"), "--config=iql with agent=rnn_ns obs_agent_id=False;"),
        (("maddpg_ns", "gymma"), "--epymarl PATH"),
        (("qmix", "sc2"), "--env-config=smax has SMAC's maps"),
    ],
)
def test_upstreams_files_that_there_are_not_are_refused_with_what_takes_their_place(
    files: tuple[str, str], instead: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.compose(*files)
    (problem,) = caught.value.problems
    assert instead in problem
    name, _, words = instead.removesuffix(";").removeprefix("--config=").partition(" with ")
    if words:
        assert config.compose(name, "matrix", words.split())["agent"] == "rnn_ns"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: vdn\nlr: [1, 2\n", r"vdn\.yaml, line 3"),
        ("name: vdn\nlr: 1\nlr: 2\n", r"line 3: the key 'lr' is there twice"),
        ("env_args: {a: 1, a: 2}\n", r"line 1: the key 'a' is there twice"),
        ("1: x\n", r"line 1: the key 1 is no word"),
        ("env_args: {key: {{TASK}}}\n", r"line 1: the key \{'TASK': None\} is no word"),
        ("lr: !!int many\n", r"vdn\.yaml: .*'many'"),
        ("- a\n- b\n", "a mapping of keys"),
        ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("# " + "x" * 2**20, "larger than"),
    ],
)
def test_broken_files(tree: Path, problems: Callable[..., list[str]], content: str, message: str) -> None:
    (tree / "config/algs/vdn.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.compose("vdn", "lbf")


def test_scientific_notation_in_files_is_a_number(tree: Path) -> None:
    path = tree / "x.yaml"
    path.write_text("a: 1e-3\nb: 5E4\nc: -1.5e+2\nd: e3\n")
    assert load_yaml(path) == {"a": 1e-3, "b": 5e4, "c": -150.0, "d": "e3"}


@pytest.mark.parametrize("text", ["010", "-07", "0_1", "1:30", "12:30:45", "1:30.5", "2026-02-28", "2026-02-30"])
def test_octal_and_sexagesimal_numbers_and_dates_are_words(tree: Path, text: str) -> None:
    path = tree / "x.yaml"
    path.write_text(f"a: {text}\n")
    assert load_yaml(path) == {"a": text} and parse_value(f"[{text}]") == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("+5", 5), ("1_000", 1000), ("0x10", 16), ("-20", -20), ("0.5", 0.5), ("-.5", -0.5), ("5.", 5.0),
        ("0b101", 5), ("1_000.5", 1000.5),
        ("1.5e3", 1500.0), ("00.5", 0.5), (".5E-3", 0.0005), (".inf", math.inf), ("-.Inf", -math.inf),
    ],
)  # fmt: skip
def test_other_numbers_are_numbers(tree: Path, text: str, value: float) -> None:
    path = tree / "x.yaml"
    path.write_text(f"a: {text}\n")
    read = load_yaml(path)["a"]
    assert read == value and type(read) is type(value)


def test_an_algorithm_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("learner: q_learner\n")
    with pytest.raises(ConfigError, match="mine.yaml: name is missing"):
        config.compose(str(tmp_path / "mine.yaml"), "matrix")


def test_this_checkouts_plugin_comes_before_an_installed_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "mmsa").mkdir()
    (tmp_path / "mmsa/__init__.py").write_text("raise RuntimeError('of another checkout')")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from utils import hosts; print(hosts.import_plugin('mmsa').__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(config.ROOT / "src")], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(config.ROOT / "plugins/mmsa/__init__.py"), done.stderr
