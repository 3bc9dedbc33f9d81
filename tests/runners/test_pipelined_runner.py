"""The runner that plays in another process, against one that plays here with the networks of one run ago."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
from support.processes import children, gone
from support.settings import RecordingLogger, config, scheme_of

from components.episode_buffer import complete_scheme
from controllers import REGISTRY as mac_REGISTRY
from controllers.basic_controller import BasicMAC
from runners.episode_runner import EpisodeRunner
from runners.pipelined_runner import CollectorError, PipelinedRunner
from utils.hosts import register_environment
from utils.process import prepare

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("obs", "state", "avail_actions", "actions", "reward", "terminated", "filled")
Played = dict[str, th.Tensor]


def settings(**changes: Any) -> SimpleNamespace:
    values = {
        "env": "gymma",
        "env_args": {"key": "Foraging-5x5-2p-1f-v3", "time_limit": 8},
        "runner": "parallel",
        "batch_size_run": 2,
        "pipeline": True,
        "hidden_dim": 8,
        "epsilon_anneal_time": 60,
        "runner_log_interval": 20,
        "test_nepisode": 2,
        "obs_last_action": True,
    }
    return SimpleNamespace(**config(**(values | changes)), device="cpu")


def build(kind: Any, args: SimpleNamespace) -> tuple[Any, BasicMAC, RecordingLogger]:
    """As run.build, without a learner."""
    logger = RecordingLogger()
    prepare(args)
    runner = kind(args, logger)
    vars(args).update(runner.get_env_info())
    scheme, groups, preprocess = scheme_of(args)
    mac = mac_REGISTRY[args.mac](complete_scheme(scheme, preprocess), groups, args)
    runner.setup(scheme, groups, preprocess, mac)
    return runner, mac, logger


def networks(mac: BasicMAC, n: int) -> list[dict[str, th.Tensor]]:
    """The first networks, and n - 1 others."""
    state = {name: tensor.clone() for name, tensor in mac.agent.state_dict().items()}
    generator = th.Generator().manual_seed(5)
    made = [state]
    for _ in range(n - 1):
        made.append({name: th.randn(tensor.shape, generator=generator) for name, tensor in state.items()})
    return made


def copy_of(batch: Any) -> Played:
    return {key: batch[key].clone() for key in FIELDS}


def equal(a: Played, b: Played) -> bool:
    return all(th.equal(a[key], b[key]) for key in FIELDS)


@pytest.fixture
def pipelined() -> Iterator[Callable[..., tuple[Any, BasicMAC, RecordingLogger]]]:
    made = []

    def make(**changes: Any) -> tuple[Any, BasicMAC, RecordingLogger]:
        made.append(build(PipelinedRunner, settings(**changes)))
        return made[-1]

    yield make
    for runner, *_ in made:
        runner.close_env()


def test_episodes_are_those_of_the_networks_of_one_run_ago(pipelined: Any) -> None:
    runner, mac, logger = pipelined()
    here, our_mac, our_logger = build(EpisodeRunner, settings())
    states = networks(mac, 6)
    played, steps = [], []
    for state in states:  # what a learner makes of the networks between two runs
        mac.agent.load_state_dict(state)
        batch = runner.run()
        played.append(copy_of(batch))
        steps.append(runner.t_env)
        time.sleep(0.05)  # the next episodes are being written meanwhile
        assert equal(copy_of(batch), played[-1]), "a batch holds until the next run"
    wanted = []
    for state, t in zip([states[0], *states[:-1]], steps, strict=True):
        our_mac.agent.load_state_dict(state)
        wanted.append(copy_of(here.run()))
        assert here.t_env == t
    assert all(map(equal, played, wanted))
    assert not equal(wanted[1], wanted[2]), "the networks make no difference: nothing was tested"
    assert logger.stats == our_logger.stats and logger.stats["epsilon"]
    here.close_env()


def test_all_networks_of_a_controller_of_others_are_handed_over(pipelined: Any, tmp_path: Path) -> None:
    own = tmp_path / "talking_mac.py"
    own.write_text(
        textwrap.dedent("""
            import torch
            import controllers

            class Talking(controllers.BasicMAC):
                def __init__(self, *parts):
                    super().__init__(*parts)
                    self.talk = torch.nn.Linear(3, 3)

            def register():
                controllers.REGISTRY["talking"] = Talking
        """)
    )
    register_environment(str(own))
    runner, mac, _ = pipelined(mac="talking", env_module=str(own))
    th.nn.init.constant_(mac.talk.weight, 7.0)
    runner.run()
    assert th.equal(runner._their_networks["talk.weight"], mac.talk.weight)
    assert {name.partition(".")[0] for name in runner._their_networks} == {"agent", "talk"}


def test_tests_take_the_networks_of_the_moment(pipelined: Any) -> None:
    runner, mac, logger = pipelined()
    here, our_mac, our_logger = build(EpisodeRunner, settings())
    first, third, second = networks(mac, 3)

    runner.run()
    mac.agent.load_state_dict(second)
    tested = copy_of(runner.run(test_mode=True))
    at = runner.t_env
    mac.agent.load_state_dict(third)
    after = [copy_of(runner.run()), copy_of(runner.run())]

    here.run()
    t = here.t_env
    ahead = copy_of(here.run())  # was under way when the test was asked for
    our_mac.agent.load_state_dict(second)
    here.t_env, later = t, here.t_env
    assert equal(tested, copy_of(here.run(test_mode=True)))
    here.t_env = later
    our_mac.agent.load_state_dict(third)
    assert equal(after[0], ahead) and equal(after[1], copy_of(here.run()))
    assert [t for t, _ in logger.stats["test_return_mean"]] == [at] == [t]
    assert logger.stats["test_return_mean"] == our_logger.stats["test_return_mean"]
    our_mac.agent.load_state_dict(first)
    here.env.episode = 2  # the test's, once more
    assert not equal(tested, copy_of(here.run(test_mode=True))), "the networks make no difference: nothing was tested"
    here.close_env()


def user_env(folder: Path, body: str) -> dict[str, Any]:
    """An environment of the user's whose step does `body`; its settings."""
    (folder / "my_slow_env.py").write_text(
        textwrap.dedent("""
        import os, signal, subprocess, time
        import envs
        from envs.matrix_game import MatrixArgs, MatrixGame

        class Env(MatrixGame):
            def step(self, actions):
                BODY
                return super().step(actions)

            def close(self):
                open(os.path.join(os.path.dirname(__file__), "closed"), "w").close()

        def register():
            envs.register("slow", Env, MatrixArgs)
        """).replace("BODY", body)
    )
    return {
        "env": "slow",
        "env_args": {},
        "env_module": str(folder / "my_slow_env.py"),
        "runner": "episode",
        "batch_size_run": 1,
    }


def test_an_error_there_is_told_here(pipelined: Any, tmp_path: Path) -> None:
    runner, _, _ = pipelined(**user_env(tmp_path, "raise ValueError('out of bananas')"))
    with pytest.raises(CollectorError, match="(?s)plays the episodes.*out of bananas"):
        runner.run()


def test_an_environment_that_cannot_be_made(tmp_path: Path) -> None:
    changes = user_env(tmp_path, "pass") | {"env_args": {"key": "chess"}}
    with pytest.raises(CollectorError, match="chess|two_step"):
        build(PipelinedRunner, settings(**changes))


def test_a_killed_collector_is_seen_at_once(pipelined: Any) -> None:
    runner, _, _ = pipelined()
    runner.run()
    os.kill(runner.collector_pid, signal.SIGKILL)
    with pytest.raises(CollectorError, match="was killed by SIGKILL"):
        for _ in range(3):
            runner.run()


GAME = "self.game = getattr(self, 'game', None) or subprocess.Popen(['sleep', '3600'])"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_collector_leaves_no_process_of_an_environment_behind(pipelined: Any, tmp_path: Path) -> None:
    runner, _, _ = pipelined(**user_env(tmp_path, GAME))
    runner.run()
    started = children(runner.collector_pid)
    assert started
    os.kill(runner.collector_pid, signal.SIGKILL)
    runner.close_env()
    assert gone(*started)


@pytest.mark.parametrize("busy", [False, True])
def test_closing_ends_it_and_its_environments(pipelined: Any, tmp_path: Path, busy: bool) -> None:
    runner, _, _ = pipelined(**user_env(tmp_path, "time.sleep(3600 if os.path.exists(__file__ + '.slow') else 0)"))
    runner.run()
    if busy:
        assert runner._pipe.poll(20), "the next episode is played before it is asked for"
        (tmp_path / "my_slow_env.py.slow").touch()
        runner.run()
        time.sleep(0.3)
    else:
        runner.run(test_mode=True)  # after it nothing is under way
    pid = runner.collector_pid
    runner.close_env()
    runner.close_env()
    assert gone(pid) and (tmp_path / "closed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_ends_with_a_killed_parent(tmp_path: Path) -> None:
    changes = user_env(tmp_path, f"{GAME}; time.sleep(3600 if os.path.exists(__file__ + '.slow') else 0)")
    program = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[str(ROOT / "src"), str(ROOT / "plugins"), str(ROOT / "tests"), str(ROOT / "tests/runners")]!r}
        if __name__ == "__main__":
            from test_pipelined_runner import PipelinedRunner, build, settings
            runner, _, _ = build(PipelinedRunner, settings(**{changes!r}))
            open({str(tmp_path / "my_slow_env.py.slow")!r}, "w").close()
            print(runner.collector_pid, flush=True)
            runner.run()
    """)
    (tmp_path / "parent.py").write_text(program)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    for _ in range(200):
        if started := children(pid):
            break
        time.sleep(0.1)
    assert started
    parent.kill()
    parent.wait()
    assert gone(pid, *started)
