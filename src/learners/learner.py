"""What the host's learners have in common: what they hold, and how it is saved and restored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th
from torch import nn

from components.running_stats import RunningStats
from controllers.basic_controller import networks_of
from learners.guard import UpdateGuard


class Learner:
    """`networks` names everything with weights; those of the MAC are saved and loaded by itself."""

    optimiser: th.optim.Optimizer
    return_stats: RunningStats | None

    def __init__(self, mac: Any, logger: Any, args: SimpleNamespace) -> None:
        self.mac, self.logger, self.args = mac, logger, args
        self.guard = UpdateGuard()
        self.training_steps = 0  # of the optimiser
        self.last_log_t = -args.learner_log_interval - 1

    def networks(self) -> dict[str, nn.Module]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything: a learner that loads it goes on as this one would."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimiser": self.optimiser.state_dict(),
            "last_log_t": self.last_log_t,
            **self._counters(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        networks = self.networks()
        if networks.keys() != state["networks"].keys():
            raise ValueError(f"networks {', '.join(state['networks'])} for a learner of {', '.join(networks)}")
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.last_log_t = state["last_log_t"]
        self._load_counters(state)

    def _counters(self) -> dict[str, Any]:
        stats = None if self.return_stats is None else self.return_stats.state_dict()
        return {"training_steps": self.training_steps, "return_stats": stats}

    def _load_counters(self, state: dict[str, Any]) -> None:
        saved, own = state["return_stats"] is not None, self.return_stats is not None
        if saved != own:
            raise ValueError(
                f"standardise_returns={own}: these networks were trained with {saved}, and value what they value on "
                f"that scale; set standardise_returns={saved}"
            )
        self.training_steps = state["training_steps"]
        if self.return_stats is not None:
            self.return_stats.load_state_dict(state["return_stats"])

    def cuda(self) -> None:
        self.mac.cuda()
        for network in self.networks().values():
            network.cuda()
        if self.return_stats is not None:
            self.return_stats.to("cuda")

    def save_models(self, path: str | Path) -> None:
        """Writes NAME.th for each network, opt.th and learner.th, the learner's counters, into the folder."""
        path = Path(path)
        self.mac.save_models(path)
        for name, network in self.networks().items():
            if name not in networks_of(self.mac):
                th.save(network.state_dict(), path / f"{name}.th")
        th.save(self.optimiser.state_dict(), path / "opt.th")
        th.save(self._counters(), path / "learner.th")

    def load_models(self, path: str | Path) -> None:
        """Reads what save_models wrote; the counterpart of another algorithm's folder is an error of torch's."""
        device = next(self.networks()["agent"].parameters()).device

        def read(name: str) -> Any:
            return th.load(Path(path) / f"{name}.th", map_location=device, weights_only=True)

        self.mac.load_models(path)
        for name, network in self.networks().items():
            if name not in networks_of(self.mac):
                network.load_state_dict(read(name))
        rates = [group["lr"] for group in self.optimiser.param_groups]  # of this run, whatever the other one had
        self.optimiser.load_state_dict(read("opt"))
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        self._load_counters(read("learner"))
