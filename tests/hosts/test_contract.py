"""What the plugin relies on in a host, asked of the host whose modules are on sys.path.

Here that is the embedded one. test_upstream.py runs this file a second time, in a process whose sys.path has the `src`
of the checkout that EPYMARL_PATH names; CONTRACT_HOST=upstream says so.
"""

from __future__ import annotations

import logging
import math
import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th

KEY = "lbforaging:Foraging-5x5-2p-1f-v3"
N_AGENTS, N_ACTIONS, LIMIT = 2, 6, 12
UPSTREAM = os.environ.get("CONTRACT_HOST") == "upstream"
LOG = logging.getLogger("contract")
SHORT = [
    f"env_args.key={KEY}", f"env_args.time_limit={LIMIT}", "seed=1", "use_cuda=False", "t_max=300", "batch_size=4",
    "test_interval=150", "test_nepisode=2", "log_interval=100", "runner_log_interval=50", "learner_log_interval=50",
    "hidden_dim=16",
]  # fmt: skip
SMALL = [
    "sale.dim=8", "sale.hidden_dim=8", "head.hidden_dim=8", "world_model.latent_dim=2", "world_model.hidden_dim=8",
    "world_model.state_embed_dim=8", "imagination.embed_dim=8",
]  # fmt: skip
LOSSES = ("td", "kl", "prior_reg", "recon", "prior_recon_state", "prior_recon_action", "avail", "reward", "sale")
METRICS = {
    *("return_mean", "return_std", "ep_length_mean", "test_return_mean", "test_return_std", "test_ep_length_mean"),
    *("epsilon", "episode", "loss", "grad_norm", "td_error_abs", "q_taken_mean", "target_mean"),
}
MMSA_METRICS = {
    *(f"mmsa_loss_{name}" for name in LOSSES),
    *(f"mmsa_{name}_{k}" for name in ("open_loop", "no_change") for k in range(1, 11)),
    *("mmsa_grad_norm_world_model", "mmsa_grad_norm_sale", "mmsa_zs_spread", "mmsa_sale_over_no_change"),
    *("mmsa_reward_imagined", "mmsa_reward_real", "mmsa_reward_correlation"),
    *("mmsa_td_other_state", "mmsa_td_other_rollout", "mmsa_td_other_future"),
}

if UPSTREAM:
    from mmsa import checkout as checkouts
    from mmsa import upstream

    CHECKOUT = checkouts.find_checkout(os.environ[checkouts.VARIABLE])
    upstream.prepare(CHECKOUT, checkouts.compose(CHECKOUT, "mmsa", "gymma", SHORT), LOG)


def compose(algorithm: str, *words: str) -> dict[str, Any]:
    """The host's own configuration of a short run on a small task; `words` come last."""
    small = SMALL if algorithm == "mmsa" else []
    if UPSTREAM:
        config = checkouts.compose(CHECKOUT, algorithm, "gymma", [*SHORT, *small, *words])
        config["env_args"]["seed"] = config["seed"]
        return config
    return import_module("utils.config").compose(
        algorithm, "gymma", [*SHORT, *small, "env_steps_per_update=episode", *words]
    )


def run(algorithm: str, *words: str) -> SimpleNamespace:
    """Trains as Sacred's main function would, and gives back the record: info, and the scalars that were logged."""
    scalars: dict[str, list[tuple[int, float]]] = {}

    def log_scalar(name: str, value: Any, step: int) -> None:
        scalars.setdefault(name, []).append((int(step), float(value)))

    record = SimpleNamespace(info={}, config={}, log_scalar=log_scalar, scalars=scalars)
    th.manual_seed(1)
    import_module("run").run(record, compose(algorithm, *words), LOG)
    return record


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The host's calls of runner, controller and learner of MMSA from now on, in order: name, arguments and result."""
    seen: list[tuple[str, Any]] = []

    def spied(registry: str, name: str, methods: tuple[str, ...]) -> None:
        entries = import_module(registry).REGISTRY
        spy = type(entries[name].__name__, (entries[name],), {})
        for method in ("__init__", *methods):
            monkeypatch.setattr(spy, method, noting(f"{registry}.{method}", getattr(spy, method)), raising=False)
        monkeypatch.setitem(entries, name, spy)

    def noting(name: str, method: Any) -> Any:
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            found = method(self, *args, **kwargs)
            seen.append((name, SimpleNamespace(self=self, args=args, kwargs=kwargs, result=found)))
            return found

        return wrapped

    compose("mmsa")  # registers the plugin
    spied("runners", "episode", ("get_env_info", "setup", "run", "close_env"))
    spied("runners", "parallel", ("get_env_info", "setup", "run", "close_env"))
    spied("controllers", "mmsa_mac", ("init_hidden", "select_actions"))
    spied("learners", "mmsa_learner", ("train", "save_models", "load_models"))
    return seen


def of(calls: list[tuple[str, Any]], name: str) -> list[Any]:
    return [call for called, call in calls if called == name]


# --- registries ---
def test_registries_are_dicts_with_the_names_that_configurations_use() -> None:
    compose("mmsa")
    for module, names in {
        "learners": {"q_learner", "ppo_learner", "mmsa_learner"},
        "controllers": {"basic_mac", "mmsa_mac"},
        "modules.agents": {"rnn", "mmsa_agent"},
        "modules.critics": {"cv_critic", "ac_critic"},
        "runners": {"episode", "parallel"},
        "components.action_selectors": {"epsilon_greedy", "soft_policies"},
        "envs": {"gymma"},
    }.items():
        registry = import_module(module).REGISTRY
        assert type(registry) is dict and names <= registry.keys(), module


# --- order of calls ---
def test_order_of_calls(calls: list[tuple[str, Any]]) -> None:
    run("mmsa")
    names = [name for name, _ in calls if not name.startswith("controllers.") or name.endswith("__init__")]
    beginning = [*("runners.__init__", "runners.get_env_info", "controllers.__init__", "runners.setup")]
    beginning.append("learners.__init__")
    assert [name for name in names if name in beginning] == beginning
    rest = names[len(beginning) :]
    assert rest[0] == "runners.run" and rest[-1] == "runners.close_env"
    played = [call for call in of(calls, "runners.run") if not call.kwargs.get("test_mode", False)]
    trained = of(calls, "learners.train")
    assert len(played) - len(trained) == 3  # an update for each episode, once there are batch_size of them
    assert [call.args[1] for call in trained] == sorted(call.args[1] for call in trained)  # t_env

    info = of(calls, "runners.get_env_info")[0].result
    sizes = {"n_agents": N_AGENTS, "n_actions": N_ACTIONS, "episode_limit": LIMIT}
    assert {key: info[key] for key in sizes} == sizes
    mac, learner = of(calls, "controllers.__init__")[0], of(calls, "learners.__init__")[0]
    scheme, groups, args = mac.args
    assert groups == {"agents": N_AGENTS} and {"state", "obs", "actions", "avail_actions", "filled"} <= scheme.keys()
    assert learner.args[0] is mac.self and learner.args[1].keys() == scheme.keys()
    assert (args.n_agents, args.n_actions, args.state_shape) == (N_AGENTS, N_ACTIONS, info["state_shape"])
    assert args.device == "cpu" and callable(learner.args[2].log_stat)


# --- batches ---
@pytest.mark.parametrize("runner", [["runner=episode"], ["runner=parallel", "batch_size_run=3"]])
def test_batches_hold_whole_episodes(calls: list[tuple[str, Any]], runner: list[str]) -> None:
    run("mmsa", *runner)
    obs_dim = of(calls, "runners.get_env_info")[0].result["obs_shape"]
    state_dim = of(calls, "runners.get_env_info")[0].result["state_shape"]
    ended = 0
    for call in of(calls, "learners.train"):
        batch = call.args[0]
        filled = batch["filled"][..., 0] != 0
        n, steps = filled.shape
        for key, shape, dtypes in (
            ("state", (state_dim,), {th.float32}),
            ("obs", (N_AGENTS, obs_dim), {th.float32}),
            ("actions", (N_AGENTS, 1), {th.int64}),
            ("actions_onehot", (N_AGENTS, N_ACTIONS), {th.float32}),
            ("avail_actions", (N_AGENTS, N_ACTIONS), {th.int32, th.uint8}),
            ("reward", (1,), {th.float32}),
            ("terminated", (1,), {th.uint8}),
            ("filled", (1,), {th.int64}),
        ):
            assert batch[key].shape == (n, steps, *shape) and batch[key].dtype in dtypes, key
        assert n == batch.batch_size == 4 and steps == batch.max_seq_length == int(batch.max_t_filled()) <= LIMIT + 1
        lengths = filled.sum(1)
        assert (lengths >= 2).all() and (filled == (th.arange(steps) < lengths[:, None])).all()  # no gaps
        terminated, reward = batch["terminated"][..., 0] != 0, batch["reward"][..., 0]
        last = th.arange(steps) == lengths[:, None] - 2  # of the transitions; after it comes the bootstrap observation
        assert not (terminated & ~last).any() and not (reward != 0)[~filled].any()
        assert (batch["state"][filled] != 0).any(-1).all() and (batch["avail_actions"][filled] != 0).any(-1).all()
        taken = batch["avail_actions"].gather(-1, batch["actions"])[..., 0]
        assert (taken[filled] != 0).all() and batch["actions"][filled].max() < N_ACTIONS
        assert (batch["actions_onehot"].argmax(-1, keepdim=True) == batch["actions"])[filled].all()
        ended += int(terminated.sum())
        assert "burn_in" not in batch.scheme or not batch["burn_in"].any()
    assert ended


def test_controllers_are_asked_for_the_episodes_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several environments: actions (len(bs), N) long for those in `bs`; the hidden states are those of all."""
    compose("mmsa")
    entries = import_module("controllers").REGISTRY
    asked = set()

    class Asked(entries["mmsa_mac"]):
        def init_hidden(self, batch_size: int) -> None:
            assert batch_size == 3
            super().init_hidden(batch_size)

        def select_actions(self, ep_batch: Any, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False):
            avail = ep_batch["avail_actions"][:, t_ep][bs]
            actions = super().select_actions(ep_batch, t_ep=t_ep, t_env=t_env, bs=bs, test_mode=test_mode)
            assert actions.shape == (len(avail), N_AGENTS) and actions.dtype == th.int64
            playing = (avail != 0).any(-1)  # an episode that is over may be asked for once more
            assert playing.any() and avail.gather(-1, actions.unsqueeze(-1))[..., 0][playing].all()
            assert self.hidden_states.shape[:2] == (3, N_AGENTS)
            asked.add(len(avail))
            return actions

    monkeypatch.setitem(entries, "mmsa_mac", Asked)
    run("mmsa", "runner=parallel", "batch_size_run=3")
    assert 3 in asked and len(asked) > 1


# --- training, saving, loading ---
@pytest.mark.parametrize("words", [[], ["runner=parallel", "batch_size_run=2"], ["td_lambda=0.6"]])
def test_a_short_run_logs_everything(words: list[str]) -> None:
    record = run("mmsa", *words)
    assert METRICS | MMSA_METRICS <= record.scalars.keys()
    for name, points in record.scalars.items():
        assert all(math.isfinite(value) for _, value in points), name
        steps = [step for step, _ in points]
        assert steps == sorted(steps) and steps[-1] > 0, name
        assert record.info[name] == [value for _, value in points] and record.info[f"{name}_T"] == steps, name


@pytest.mark.parametrize(("algorithm", "metric"), [("qmix", "loss"), ("vdn", "loss"), ("mappo", "pg_loss")])
def test_the_hosts_own_algorithms_run_beside_it(algorithm: str, metric: str) -> None:
    words = ["batch_size=10"] if algorithm == "mappo" else []
    if algorithm == "mappo" and not UPSTREAM:
        words.append("env_steps_per_update=batch")
    assert {"test_return_mean", metric} <= run(algorithm, *words).scalars.keys()


def test_saved_networks_are_loaded_and_evaluated(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    run("mmsa", f"local_results_path={tmp_path}", "save_model=True", "save_model_interval=100")
    (first,) = of(calls, "learners.__init__")
    folders = sorted((tmp_path / "models").glob("*/[0-9]*"), key=lambda folder: int(folder.name))
    assert len(folders) >= 2 and {path.name for path in folders[-1].iterdir()} >= {"agent.th", "mmsa.th"}
    trained = len(of(calls, "learners.train"))

    record = run("mmsa", f"checkpoint_path={folders[0].parent}", "evaluate=True", "load_step=0")
    second = of(calls, "learners.__init__")[-1].self
    assert len(of(calls, "learners.train")) == trained and second is not first.self
    assert Path(of(calls, "learners.load_models")[-1].args[0]).name == folders[-1].name  # 0: the last one
    saved = th.load(folders[-1] / "agent.th", weights_only=True)
    loaded = second.mac.agent.state_dict()
    assert saved.keys() == loaded.keys() and all(th.equal(saved[name], loaded[name]) for name in saved)
    assert [step for step, _ in record.scalars["test_return_mean"]] == [int(folders[-1].name)]

    run("mmsa", f"checkpoint_path={folders[0].parent}", "t_max=600")  # goes on training
    assert len(of(calls, "learners.train")) > trained
