"""A run: builds its parts from the configuration, then one loop: collect, learn, test, save, log."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th

import envs
from components.checkpoint import find_checkpoint
from components.episode_buffer import ReplayBuffer
from components.intervals import Every, UpdateSchedule
from components.transforms import OneHot
from controllers import REGISTRY as mac_REGISTRY
from learners import REGISTRY as le_REGISTRY
from runners import REGISTRY as r_REGISTRY
from runners.pipelined_runner import PipelinedRunner
from utils.logging import Logger, task_name
from utils.process import prepare


def run(_run: Any, config: Mapping[str, Any], log: Any) -> None:
    """Trains, or with `evaluate` tests a checkpoint. `_run`: Sacred's run, or None to record nothing."""
    args = make_args(config)
    logger = Logger(log)
    if _run is not None:
        logger.setup_sacred(_run)
    logger.setup_trackers(config, args.unique_token)
    runner = None
    try:
        runner = make_runner(args, logger)
        buffer, learner = build(args, runner, logger)
        announce(args, runner, buffer, logger)
        if args.checkpoint_path:
            folder = find_checkpoint(args.checkpoint_path, args.load_step)
            log.info("loading the networks from %s", folder)
            learner.load_models(folder)
            if not args.evaluate:
                log.warning(
                    "only networks and optimisers are loaded: replay buffer, reward statistics and counters start anew"
                )
            runner.t_env = int(folder.name)
        if args.evaluate:
            test(args, runner)
            logger.log_stat("episode", 0, runner.t_env)
            logger.print_recent_stats()
        else:
            train(args, runner, buffer, learner, logger)
    finally:
        if runner is not None:
            runner.close_env()
        logger.finish()


def train(args: SimpleNamespace, runner: Any, buffer: ReplayBuffer, learner: Any, logger: Logger) -> None:
    """The training loop."""
    updates = UpdateSchedule(args.env_steps_per_update, args.batch_size)
    test_due = Every(args.test_interval)
    log_due = Every(args.log_interval, start=args.log_interval)
    save_due = Every(args.save_model_interval, start=args.save_model_interval)
    episode = 0

    while runner.t_env <= args.t_max:
        before = runner.t_env
        buffer.insert_episode_batch(runner.run())
        episode += runner.batch_size

        for _ in range(updates.due(runner.t_env - before, runner.batch_size, buffer.can_sample(args.batch_size))):
            learner.train(buffer.sample(args.batch_size).to(args.device), runner.t_env, episode)

        last = runner.t_env > args.t_max
        if test_due(runner.t_env) or last:
            test(args, runner)
            logger.log_stat("updates", learner.training_steps, runner.t_env)
        if args.save_model and (save_due(runner.t_env) or last):
            save(args, runner.t_env, learner, logger)
        if log_due(runner.t_env) or last:
            logger.log_stat("episode", episode, runner.t_env)
            logger.print_recent_stats()
        logger.progress(runner.t_env, episode)


def make_args(config: Mapping[str, Any]) -> SimpleNamespace:
    """The configuration as a namespace, with the device and a name for the run; seeds everything random."""
    args = SimpleNamespace(**config)
    args.use_cuda = th.cuda.is_available() if args.use_cuda == "auto" else args.use_cuda
    args.device = "cuda" if args.use_cuda else "cpu"
    task = task_name(config) + envs.simulator_suffix(config)
    args.unique_token = f"{args.name}_seed{args.seed}_{task}_{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
    prepare(args)
    return args


def make_runner(args: SimpleNamespace, logger: Logger) -> Any:
    """The runner of args.runner; with args.pipeline it plays in another process while this one trains."""
    pipelined = args.pipeline and not args.evaluate
    return (PipelinedRunner if pipelined else r_REGISTRY[args.runner])(args=args, logger=logger)


def build(args: SimpleNamespace, runner: Any, logger: Logger) -> tuple[ReplayBuffer, Any]:
    """Replay buffer and learner; the controller is given to the runner. Notes the environment's sizes in args."""
    vars(args).update(runner.get_env_info())  # n_agents, n_actions, state_shape, obs_shape, episode_limit
    scheme = {
        "state": {"vshape": args.state_shape},
        "obs": {"vshape": args.obs_shape, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": th.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": th.uint8},
        "reward": {"vshape": (1 if args.common_reward else args.n_agents,)},
        "terminated": {"vshape": (1,), "dtype": th.uint8},
    }
    groups = {"agents": args.n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(args.n_actions)])}
    keys = ("seed", "standardise_rewards", "sequence_length", "burn_in")
    options = {key: getattr(args, key) for key in keys}
    device = "cpu" if args.buffer_cpu_only else args.device
    buffer = ReplayBuffer(scheme, groups, args.buffer_size, args.episode_limit + 1, preprocess, device, **options)
    mac = mac_REGISTRY[args.mac](buffer.scheme, groups, args)
    runner.setup(scheme, groups, preprocess, mac)
    learner = le_REGISTRY[args.learner](mac, buffer.scheme, logger, args)
    if args.use_cuda:
        learner.cuda()
    return buffer, learner


def announce(args: SimpleNamespace, runner: Any, buffer: ReplayBuffer, logger: Logger) -> None:
    """Says at the start, and notes in the run's record, what no configuration file shows."""
    env, log = runner.env, logger.console_logger
    ratio = str(UpdateSchedule(args.env_steps_per_update, args.batch_size))
    size = buffer.capacity_bytes
    logger.record(backend=env.backend, env_info=dict(env.info), update_to_data=ratio, buffer_bytes=size)
    logger.record(device=args.device, unique_token=args.unique_token)  # the token names the folder of saved networks
    if env.banner:
        bar = "!" * 100
        log.warning("\n%s\n%s\n%s", bar, textwrap.fill(env.banner, 100), bar)
    log.info("environment: %s, backend %s, %d at once", task_name(vars(args)), env.backend, runner.batch_size)
    log.info("device: %s; update-to-data: %s", args.device, ratio)
    log.info("replay buffer: at most %.1f MB, %d episodes", size / 1e6, args.buffer_size)


def test(args: SimpleNamespace, runner: Any) -> None:
    """test_nepisode episodes; the runner logs them."""
    for _ in range(math.ceil(args.test_nepisode / runner.batch_size)):
        runner.run(test_mode=True)


def save(args: SimpleNamespace, t_env: int, learner: Any, logger: Logger) -> None:
    """Saves the networks as local_results_path/models/<unique_token>/<t_env>."""
    folder = Path(args.local_results_path) / "models" / args.unique_token / str(t_env)
    folder.mkdir(parents=True, exist_ok=True)
    logger.console_logger.info("saving the networks to %s", folder)
    learner.save_models(folder)
    logger.record(checkpoint=str(folder))
    (folder.parent / "config.json").write_text(json.dumps(vars(args), indent=1))  # to load them with the same settings
