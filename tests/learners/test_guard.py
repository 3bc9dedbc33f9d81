"""Updates whose losses or gradients are no numbers: left out, counted, and after some in a row the end of the run."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
from support import mmsa
from support.batches import random_batch
from support.settings import RecordingLogger, args, config, scheme_of

import run
from components.episode_buffer import complete_scheme
from components.running_stats import RunningStats
from controllers.basic_controller import BasicMAC
from learners.guard import NonFiniteError, UpdateGuard
from learners.ppo_learner import PPOLearner
from learners.q_learner import QLearner
from mmsa.guard import Guard

PPO: dict[str, Any] = {"agent_output_type": "pi_logits", "action_selector": "multinomial", "mixer": None, "epochs": 2}


def build(kind: str) -> Any:
    if kind == "mmsa":
        return mmsa.build()
    a = args(**({"mixer": "qmix", "standardise_returns": True} if kind == "q" else PPO))
    scheme, groups, preprocess = scheme_of(a)
    th.manual_seed(0)
    mac = BasicMAC(complete_scheme(scheme, preprocess), groups, a)
    return (QLearner if kind == "q" else PPOLearner)(mac, scheme, RecordingLogger(), a)


def batch(kind: str, learner: Any, value: float | None = None) -> Any:
    """With a reward, or an observation, that is no number."""
    made = mmsa.batch_of(learner) if kind == "mmsa" else random_batch(args(), [6, 3], [True, False])
    if value is not None:
        made["obs" if kind == "ppo" else "reward"][0, 1] = value
    return made


@pytest.mark.parametrize("value", [th.nan, th.inf])
@pytest.mark.parametrize("kind", ["q", "ppo", "mmsa"])
def test_such_an_update_changes_nothing_and_is_counted(kind: str, value: float) -> None:
    learner = build(kind)
    learner.guard = UpdateGuard()
    learner.train(batch(kind, learner), 1, 1)
    before = copy.deepcopy(learner.state_dict())
    assert learner.guard.skipped == 0 and before["training_steps"] >= 1
    logged = {name: list(points) for name, points in learner.logger.stats.items()}
    learner.train(batch(kind, learner, value), learner.args.learner_log_interval + 2, 1)
    assert learner.logger.stats == logged, "metrics of an update that was not made"
    after = learner.state_dict()
    assert learner.guard.skipped == 1 and not list(changes(before, after))
    learner.train(batch(kind, learner), learner.args.learner_log_interval + 3, 1)
    assert learner.guard.in_a_row == 0 and list(changes(before, learner.state_dict()))


def changes(a: Any, b: Any, where: str = "") -> Any:
    if isinstance(a, dict):
        for key in a:
            yield from changes(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from changes(x, y, f"{where}/{i}")
    elif not (th.equal(a, b) if isinstance(a, th.Tensor) else a == b):
        yield where


def test_without_a_host_s_guard_mmsa_leaves_it_out_too() -> None:
    learner = build("mmsa")
    learner.train(batch("mmsa", learner, th.nan), 1, 1)
    assert learner.training_steps == 0
    learner.train(batch("mmsa", learner), 1, 1)
    assert learner.training_steps == 1


def test_nor_does_mmsa_go_on_for_ever_without_one(caplog: pytest.LogCaptureFixture) -> None:
    """Upstream EPyMARL has no guard: a run that learns nothing any more must end there, too."""
    learner = build("mmsa")
    broken = batch("mmsa", learner, th.nan)
    for _ in range(9):
        learner.train(broken, 1, 1)
    learner.train(batch("mmsa", learner), 1, 1)
    for _ in range(9):
        learner.train(broken, 1, 1)
    assert "an update, which is left out: " in caplog.text and "td" in caplog.text
    with pytest.raises(RuntimeError, match="no finite number.*td.*10 in a row; lr"):
        learner.train(broken, 1, 1)


def test_mmsas_own_guard_names_losses_else_groups_of_gradients(caplog: pytest.LogCaptureFixture) -> None:
    guard, fine, bad = Guard(), th.tensor(1.0), th.tensor(th.inf)
    assert guard({"td": fine, "kl": fine}, {"value": fine, "world_model": fine}) and not caplog.text
    assert not guard({"td": fine, "kl": fine}, {"value": fine, "world_model": bad})
    assert not guard({"td": fine, "kl": bad}, {"value": bad, "world_model": fine})
    assert not guard({"td": th.tensor(3e38), "kl": th.tensor(3e38)}, {"value": fine, "world_model": fine})
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == ["gradient of world_model", "kl", "the sum of all losses and norms"]


def test_too_many_in_a_row_end_the_run_with_the_loss_named(caplog: pytest.LogCaptureFixture) -> None:
    guard, fine, bad = UpdateGuard(logging.getLogger("test"), patience=3), th.tensor(1.0), th.tensor(th.nan)
    for row in (2, 2, 3):
        assert guard({"td": fine, "kl": fine}, {"the agent": fine})
        for _ in range(row - 1):
            assert not guard({"td": fine, "kl": bad}, {"the agent": th.tensor(th.inf)})
    with pytest.raises(NonFiniteError, match="the loss kl, the gradient of the agent: no finite number, in 3 updates"):
        guard({"td": fine, "kl": bad}, {"the agent": th.tensor(th.inf)})
    assert guard.skipped == 5 and "5 so far" not in caplog.text and "4 so far" in caplog.text
    again = UpdateGuard(patience=3)
    again.load_state_dict(guard.state_dict())
    assert (again.skipped, again.in_a_row) == (5, 3)


def test_means_are_kept_clean() -> None:
    stats = RunningStats((2,))
    stats.update(th.ones(3, 2))
    stats.update(th.tensor([[1.0, th.nan]]))
    assert stats.count == 3 and stats.mean.tolist() == [1.0, 1.0]


def test_batch_and_learner_are_left_for_inspection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = QLearner._targets

    def diverged(self: QLearner, *given: Any) -> th.Tensor:
        return real(self, *given) * (th.nan if self.training_steps == 3 else 1.0)

    monkeypatch.setattr(QLearner, "_targets", diverged)
    values = config(
        name="test", env="matrix", env_args={}, mixer="vdn", t_max=400, batch_size=2, hidden_dim=8, test_nepisode=1,
        env_steps_per_update=4, local_results_path=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="the loss td.*nonfinite.pt, for torch.load"):
        run.run(None, values, logging.getLogger("test"))
    (path,) = tmp_path.rglob("nonfinite.pt")
    dumped = th.load(path, weights_only=True)
    assert dumped["learner"]["training_steps"] == 3 and dumped["batch"]["obs"].shape[0] == 2


def test_a_full_disk_costs_the_saved_networks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learner, logger = build("q"), RecordingLogger(logging.getLogger("test"))
    a = SimpleNamespace(local_results_path=str(tmp_path), unique_token="token")
    run.save(a, 10, learner, logger)  # type: ignore[arg-type]
    real = th.save

    def full(content: Any, path: Path) -> None:
        real(content, path)
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(th, "save", full)
    run.save(a, 20, learner, logger)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "models" / "token").iterdir() if path.is_dir()] == ["10"]
    assert "the networks of step 20 are not saved" in caplog.text and "is the disk full?" in caplog.text
    assert logger.records["checkpoint"].endswith("10")
