"""A folder that looks like an EPyMARL checkout: its contract in a few lines, with a run.run that trains nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

FILES = {
    "src/config/default.yaml": """
        runner: episode
        env: sc2
        env_args: {}
        batch_size_run: 1
        t_max: 100
        lr: 0.0005
        gamma: 0.99
        grad_norm_clip: 10
        learner_log_interval: 2000
        hidden_dim: 64
        common_reward: true
        use_cuda: false
        use_tensorboard: false
        use_wandb: false
        wandb_team: null
        wandb_project: null
        evaluate: false
        checkpoint_path: ""
        label: default_label
        local_results_path: results
        batch_size: 32
        buffer_size: 32
        """,
    "src/config/envs/gymma.yaml": "env: gymma\nenv_args: {key: null, time_limit: 100}\nt_max: 200\n",
    "src/config/envs/sc2.yaml": "env: sc2\nenv_args: {map_name: 3m}\n",
    "src/config/algs/qmix.yaml": "name: qmix\nlearner: q_learner\nmixer: qmix\nepsilon_anneal_time: 50000\n",
    "src/run.py": '''
        """Logs where it came from instead of training."""
        import random
        import sys
        import time

        import envs
        from components.episode_buffer import ReplayBuffer
        from learners import REGISTRY
        from utils.logging import Logger


        def run(_run, config, log):
            if config["lr"] == 13:
                raise RuntimeError("unlucky")
            import numpy as np
            import torch as th
            logger = Logger(log)
            if config["use_tensorboard"]:
                logger.setup_tb("checkout/results/tb_logs/token")
            logger.setup_sacred(_run)
            drawn = [random.random(), float(np.random.rand()), float(th.rand(()))]
            _run.info["seen"] = {
                "drawn": drawn, "learners": sorted(REGISTRY), "path": sys.path, "seed": config["env_args"]["seed"],
                "threads": th.get_num_threads(), "items": type(ReplayBuffer()._parse_slices((1, 2))).__name__,
            }
            logger.log_stat("test_return_mean", 0.5, 100)
            for _ in range(600 if config["lr"] == 14 else 0):  # until somebody stops it
                time.sleep(0.1)
        ''',
    "src/envs/__init__.py": "import smaclite\nfrom .multiagentenv import MultiAgentEnv\nREGISTRY = {'gymma': None}\n",
    "src/envs/multiagentenv.py": "class MultiAgentEnv:\n    def get_env_info(self): ...\n",
    "src/envs/gymma.py": "",
    "src/envs/wrappers.py": "",
    "src/learners/__init__.py": "REGISTRY = {'q_learner': None}\n",
    "src/controllers/__init__.py": "REGISTRY = {'basic_mac': None}\n",
    "src/runners/__init__.py": "REGISTRY = {'episode': None, 'parallel': None}\n",
    "src/modules/__init__.py": "",
    "src/modules/agents/__init__.py": "REGISTRY = {'rnn': None}\n",
    "src/components/__init__.py": "",
    "src/components/action_selectors.py": "REGISTRY = {'epsilon_greedy': None}\n",
    "src/components/episode_buffer.py": """
        class EpisodeBatch:
            def update(self): ...
            def to(self): ...
            def max_t_filled(self): ...
            def _parse_slices(self, items): return list(items)


        class ReplayBuffer(EpisodeBatch):
            def can_sample(self): ...
            def insert_episode_batch(self): ...
            def sample(self): ...
        """,
    "src/utils/__init__.py": "",
    "src/utils/logging.py": """
        class Logger:
            def __init__(self, console): self.tb = None
            def setup_sacred(self, run): self.run = run
            def setup_tb(self, directory):
                from tensorboard_logger import configure, log_value
                configure(directory)
                self.tb = log_value
            def log_stat(self, key, value, t):
                self.run.info.setdefault(key, []).append(value)
                self.run.info.setdefault(key + "_T", []).append(t)
                self.run.log_scalar(key, value, t)
                if self.tb: self.tb(key, value, t)
            def print_recent_stats(self): ...
        """,
}


def make(folder: Path, changes: Mapping[str, str | None] | None = None, git: bool = False) -> Path:
    """Writes the checkout. changes: other text for these files; None leaves one out. git: in a repository."""
    for name, text in (FILES | dict(changes or {})).items():
        if text is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.split("\n")
        indent = next((len(line) - len(line.lstrip()) for line in lines if line.strip()), 0)
        path.write_text("\n".join(line[indent:] for line in lines).lstrip("\n"))
    if git:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "x"]):
            subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, git's own among them, with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
