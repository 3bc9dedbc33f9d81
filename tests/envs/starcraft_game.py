"""The game's end of pysc2's wire, for the real package smacv2: units of the protocol's own messages, simple fights.

Needs s2clientprotocol, hence a module of its own, imported by the tests that have it.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from pysc2 import maps
from pysc2.run_configs import lib
from s2clientprotocol import raw_pb2, sc2api_pb2

SIDE = 32


class Game:
    """A process and its controller at once. `error`, once set, is raised by every request."""

    started: ClassVar[list[Game]] = []

    def __init__(self) -> None:
        self.controller, self.running, self.pid = self, True, -1
        self.error: Exception | None = None
        self.closed = 0
        self.units: list[Any] = []
        self.ordered: list[Any] = []  # of the last scenario
        self.targets: dict[int, int] = {}
        self.tags = 0
        Game.started.append(self)

    def close(self) -> None:
        self.closed, self.running = self.closed + 1, False

    def _request(self) -> None:
        if self.error is not None:
            raise self.error

    def create_game(self, request: Any) -> None:
        self.seed = request.random_seed
        self.random = np.random.default_rng(self.seed)

    def join_game(self, request: Any) -> None:
        self._request()

    def game_info(self) -> Any:
        plane = SimpleNamespace(bits_per_pixel=8, data=bytes(SIDE * SIDE))
        area = SimpleNamespace(p0=SimpleNamespace(x=0, y=0), p1=SimpleNamespace(x=SIDE, y=SIDE))
        raw = SimpleNamespace(
            playable_area=area,
            map_size=SimpleNamespace(x=SIDE, y=SIDE),
            pathing_grid=plane,
            terrain_height=plane,
        )
        return SimpleNamespace(start_raw=raw)

    def data(self) -> Any:
        return SimpleNamespace(units=range(2000))

    def debug(self, commands: list[Any]) -> None:
        self._request()
        for command in commands:
            if command.HasField("kill_unit"):
                self.units = [unit for unit in self.units if unit.tag not in command.kill_unit.tag]
                continue
            order = command.create_unit
            if not self.units:
                self.ordered = []
            self.tags += 1
            unit = raw_pb2.Unit(
                tag=self.tags, unit_type=order.unit_type, owner=order.owner, health=45, health_max=45,
                shield=20, shield_max=20, energy=50, energy_max=200,
            )  # fmt: skip
            unit.pos.x, unit.pos.y = order.pos.x, order.pos.y
            self.units.append(unit)
            self.ordered.append(raw_pb2.Unit.FromString(unit.SerializeToString()))

    def actions(self, request: Any) -> None:
        self._request()
        for action in request.actions:
            command = action.action_raw.unit_command
            if command.HasField("target_unit_tag"):
                self.targets[command.unit_tags[0]] = command.target_unit_tag
            elif command.HasField("target_world_space_pos"):
                for unit in self.units:
                    if unit.tag == command.unit_tags[0]:
                        unit.pos.x = command.target_world_space_pos.x
                        unit.pos.y = command.target_world_space_pos.y

    def step(self, count: int) -> None:
        self._request()
        if count == 1:
            return
        hits = [(unit, 30.0) for unit in self.units if unit.owner == 2 and unit.tag in self.targets.values()]
        allies = [unit for unit in self.units if unit.owner == 1]
        if allies:
            hits.append((allies[int(self.random.integers(len(allies)))], 25.0))
            for unit in self.units:
                if unit.owner == 2:  # all after the same one
                    unit.pos.x += np.clip(allies[0].pos.x - unit.pos.x, -3, 3)
                    unit.pos.y += np.clip(allies[0].pos.y - unit.pos.y, -3, 3)
        for unit, damage in hits:
            unit.shield, rest = max(0.0, unit.shield - damage), max(0.0, damage - unit.shield)
            unit.health -= rest
        self.units = [unit for unit in self.units if unit.health > 0]
        self.targets.clear()

    def observe(self) -> Any:
        self._request()
        answer = sc2api_pb2.ResponseObservation()
        answer.observation.raw_data.units.extend(self.units)
        return answer

    def save_replay(self) -> bytes:
        return b"a replay"


class RunConfig(lib.RunConfig):
    """Where pysc2 would find the game."""

    def __init__(self, version: str | None = None) -> None:
        root = os.environ["SC2PATH"]
        super().__init__(os.path.join(root, "Replays"), root, None, version)

    def _get_version(self, version: Any) -> Any:
        return version

    def start(self, version: Any = None, **options: Any) -> Game:
        assert maps.get("10gen_zerg").filename == "32x32_flat"
        return Game()
