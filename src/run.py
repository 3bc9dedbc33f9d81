"""A run: builds its parts from the configuration, then one loop: collect, learn, test, save, log."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th

from components.episode_buffer import EpisodeBatch, ReplayBuffer
from components.intervals import Every, UpdateSchedule
from components.random_state import RandomState
from components.saved_networks import find_checkpoint
from components.transforms import OneHot
from controllers import REGISTRY as mac_REGISTRY
from learners import REGISTRY as le_REGISTRY
from learners.guard import NonFiniteError, UpdateGuard
from runners import REGISTRY as r_REGISTRY
from runners.pipelined_runner import CollectorError, PipelinedRunner
from utils.checkpoints import CheckpointError, Checkpoints, Saved
from utils.logging import Logger
from utils.naming import task_folder, task_name, task_of
from utils.process import prepare
from utils.signals import StopSignals


def run(
    _run: Any,
    config: Mapping[str, Any],
    log: Any,
    checkpoints: Checkpoints | None = None,
    saved: Saved | None = None,
    stop: StopSignals | None = None,
) -> None:
    """Trains, or with `evaluate` tests saved networks.

    :param _run: Sacred's run, or None to record nothing.
    :param checkpoints: where checkpoints of the training go; None writes none.
    :param saved: one of them, from which the training goes on.
    :param stop: signals that stop the run, by Interrupted.
    """
    args = make_args(config)
    logger = Logger(log)
    if _run is not None:
        logger.setup_sacred(_run)
    if saved is None:
        logger.setup_trackers(config, args.unique_token)
    else:
        args.unique_token = saved.manifest.unique_token
        logger.setup_trackers(config, args.unique_token, saved.manifest.t_env)
        with suppress(FileNotFoundError):
            logger.record(checkpoint=str(find_checkpoint(str(models(args)), 0)))
    stop = stop or StopSignals()
    with ExitStack() as at_the_end:
        at_the_end.callback(logger.finish)
        runner = make_runner(args, logger)
        at_the_end.callback(runner.close_env)
        runner.before_step = stop.check
        buffer, learner = build(args, runner, logger)
        announce(args, runner, buffer, logger)
        if args.checkpoint_path and saved is None:
            folder = find_checkpoint(args.checkpoint_path, args.load_step)
            log.info("loading the networks from %s", folder)
            learner.load_models(folder)
            if not args.evaluate:
                log.warning(
                    "networks, optimisers and the number of updates are loaded; the replay buffer and its reward "
                    "statistics, the times of tests and logs, and random numbers start anew"
                )
            runner.t_env = int(folder.name)
        if args.evaluate:
            test(args, runner)
            logger.print_recent_stats()
        else:
            train(args, runner, buffer, learner, logger, checkpoints, saved, stop)


class Loop:
    """Where the training stands: what was played and is paid for, and when the next of each thing is due."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.episode = 0
        self.owed = 0  # updates that the experience collected pays for, and that are not made yet
        self.updates = UpdateSchedule(args.env_steps_per_update, args.batch_size)
        self.test = Every(args.test_interval, at_once=True)
        self.log = Every(args.log_interval)
        self.save = Every(args.save_model_interval)
        self.checkpoint = Every(args.checkpoint_interval or args.t_max)

    def _schedules(self) -> dict[str, Any]:
        names = ("updates", "test", "log", "save", "checkpoint")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        schedules = {name: schedule.state_dict() for name, schedule in self._schedules().items()}
        return {"episode": self.episode, "owed": self.owed, **schedules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episode, self.owed = int(state["episode"]), int(state["owed"])
        for name, schedule in self._schedules().items():
            schedule.load_state_dict(state[name])


def train(
    args: SimpleNamespace,
    runner: Any,
    buffer: ReplayBuffer,
    learner: Any,
    logger: Logger,
    checkpoints: Checkpoints | None,
    saved: Saved | None,
    stop: StopSignals,
) -> None:
    """The training loop. It can be left, and entered again, between any two of its steps: a rollout, an update, a test.

    What only the end of a run does comes after the last checkpoint, so that a run resumed with a longer t_max goes on
    as if that had been its first.
    """
    loop = Loop(args)
    keep = keeper(args, loop, runner, buffer, learner, logger, checkpoints, saved)
    while True:
        while loop.owed:
            if stop.number is not None:
                keep()
                stop.check()
            batch = buffer.sample(args.batch_size).to(args.device)
            try:
                learner.train(batch, runner.t_env, loop.episode)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}. {dump(args, batch, learner, checkpoints)}") from None
            loop.owed -= 1

        last = runner.t_env > args.t_max
        if last:
            keep()
        if loop.episode:
            if loop.test.due(runner.t_env) or last:
                with whole_or_not_at_all(runner, keep):
                    test(args, runner)
                loop.test.done(runner.t_env)
                if hasattr(learner, "training_steps"):  # upstream's contract asks for no such counter
                    logger.log_stat("updates", learner.training_steps, runner.t_env)
                    if last and not learner.training_steps:
                        why = "batch_size=%d episodes are needed to learn from, %d were played"
                        logger.console_logger.warning(f"no update was made: {why}", args.batch_size, loop.episode)
                if skipped := getattr(getattr(learner, "guard", None), "skipped", 0):
                    logger.log_stat("updates_skipped", skipped, runner.t_env)
            if args.save_model and (loop.save(runner.t_env) or last):
                save(args, runner.t_env, learner, logger)
            if loop.log(runner.t_env) or last:
                logger.log_stat("episode", loop.episode, runner.t_env)
                logger.print_recent_stats()
            logger.progress(runner.t_env, loop.episode)
        if last:
            return
        if loop.checkpoint(runner.t_env):
            keep()

        before = runner.t_env
        with whole_or_not_at_all(runner, keep):
            batch = runner.run()
        buffer.insert_episode_batch(batch)
        loop.episode += runner.batch_size
        ready = buffer.can_sample(args.batch_size)
        loop.owed += loop.updates.due(runner.t_env - before, runner.batch_size, ready)


@contextmanager
def whole_or_not_at_all(runner: Any, keep: Callable[[], None]) -> Iterator[None]:
    """Whatever cuts these episodes short, a checkpoint says where the run stood before them."""
    try:
        with runner.unless_cut_short():
            yield
    except BaseException:
        keep()
        raise


def keeper(
    args: SimpleNamespace,
    loop: Loop,
    runner: Any,
    buffer: ReplayBuffer,
    learner: Any,
    logger: Logger,
    checkpoints: Checkpoints | None,
    saved: Saved | None,
) -> Callable[[], None]:
    """Restores the saved state, if there is one. Returns what writes a checkpoint; a full disk is no error to it."""
    log = logger.console_logger
    if checkpoints is None or args.checkpoint_interval is None and saved is None:
        return lambda: None
    if not hasattr(learner, "state_dict"):
        log.warning("no checkpoints are written: %s has no state_dict()", type(learner).__name__)
        return lambda: None
    parts = {"loop": loop, "runner": runner, "buffer": buffer, "learner": learner, "logger": logger}
    if hasattr(learner, "guard"):
        parts["guard"] = learner.guard
    parts["random"] = RandomState()  # the last to be loaded
    if saved is not None:
        checkpoints.restore(saved, parts, buffer)

    def keep() -> None:
        try:
            logger.flush()
            about = {"t_env": runner.t_env, "device": args.device, "unique_token": args.unique_token}
            written = checkpoints.save(parts, buffer, **about)
        except (OSError, CollectorError, CheckpointError) as error:
            log.warning("no checkpoint at step %s: %s", f"{runner.t_env:,}", error)
        else:
            size = f"{written.size / 1e6:.1f} MB in {written.seconds:.2f} s"
            log.info("checkpoint at step %s: %s", f"{runner.t_env:,}", size)

    return keep


def make_args(config: Mapping[str, Any]) -> SimpleNamespace:
    """The configuration as a namespace, with the device and a name for the run; seeds everything random."""
    args = SimpleNamespace(**config)
    args.use_cuda = th.cuda.is_available() if args.use_cuda == "auto" else args.use_cuda
    args.device = "cuda" if args.use_cuda else "cpu"
    task = task_folder(task_of(config))
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
    if hasattr(learner, "guard"):
        learner.guard = UpdateGuard(logger.console_logger)
    return buffer, learner


def announce(args: SimpleNamespace, runner: Any, buffer: ReplayBuffer, logger: Logger) -> None:
    """Says at the start, and notes in the run's record, what no configuration file shows."""
    env, log = runner.env, logger.console_logger
    ratio = str(UpdateSchedule(args.env_steps_per_update, args.batch_size))
    size = buffer.capacity_bytes
    facts = {"env_info": dict(env.info), "update_to_data": ratio, "buffer_bytes": size, "device": args.device}
    logger.record_start(backend=env.backend, **facts)
    logger.record(unique_token=args.unique_token)  # names the folder of saved networks
    if env.banner:
        bar = "!" * 100
        log.warning("\n%s\n%s\n%s", bar, textwrap.fill(env.banner, 100), bar)
    log.info("environment: %s, backend %s, %d at once", task_name(vars(args)), env.backend, runner.batch_size)
    if args.evaluate:
        episodes = rollouts_of_a_test(args, runner) * runner.batch_size
        log.info("device: %s; evaluate=True: %d test episodes, nothing is learnt", args.device, episodes)
        return
    log.info("device: %s; update-to-data: %s", args.device, ratio)
    log.info("replay buffer: up to %.1f MB, %d episodes", size / 1e6, args.buffer_size)


def test(args: SimpleNamespace, runner: Any) -> None:
    """test_nepisode episodes; the runner logs them."""
    for _ in range(rollouts_of_a_test(args, runner)):
        runner.run(test_mode=True)


def rollouts_of_a_test(args: SimpleNamespace, runner: Any) -> int:
    """How many rollouts have test_nepisode episodes, or as few more as can be."""
    return -(-args.test_nepisode // runner.batch_size)


def dump(args: SimpleNamespace, batch: EpisodeBatch, learner: Any, checkpoints: Checkpoints | None) -> str:
    """Writes the batch and the learner that went wrong into the run's folder, or where its networks are saved; says
    where."""
    root = models(args)
    path = (root if checkpoints is None else checkpoints.folder.parent) / "nonfinite.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {key: batch[key] for key in batch.scheme}
        th.save({"batch": fields, "learner": learner.state_dict() if hasattr(learner, "state_dict") else {}}, path)
    except (OSError, RuntimeError) as error:
        return f"They could not be written to {path}: {error}"
    return f"Batch and learner are in {path}, for torch.load"


def models(args: SimpleNamespace) -> Path:
    """The folder of the run's saved networks, a subfolder for each step."""
    return Path(args.local_results_path) / "models" / args.unique_token


def save(args: SimpleNamespace, t_env: int, learner: Any, logger: Logger) -> None:
    """Saves the networks in a folder of that step."""
    folder, log = models(args) / str(t_env), logger.console_logger
    log.info("saving the networks to %s", folder)
    part = folder.with_name(f"{t_env}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        learner.save_models(part)
        config = folder.with_name("config.json")  # to load them with its settings
        config.with_suffix(".part").write_text(json.dumps(vars(args), indent=1))
        config.with_suffix(".part").replace(config)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except (OSError, RuntimeError) as error:  # torch's for a full disk
        shutil.rmtree(part, ignore_errors=True)
        hint = " (is the disk full?)" if isinstance(error, RuntimeError) else ""  # torch's do not say
        log.warning("the networks of step %s are not saved, the run goes on: %s%s", f"{t_env:,}", error, hint)
    else:
        logger.record(checkpoint=str(folder))
