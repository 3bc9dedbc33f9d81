"""SMACv2 battles by their map names, in StarCraft II or, in its place, in SMAX.

`env_args.backend`: starcraft2 (real SMACv2; what is missing is listed in one MissingBackendError), smax, or auto
(StarCraft II where it can run, else SMAX with a warning). `backend` and `banner` of what is built say which one it is.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from . import smax
from .multiagentenv import BackendNotFinishedError, MissingBackendError, MultiAgentEnv, nearest

# SMACv2's unit types of each race; the third, a rare one, is not in SMAX.
RACES = {
    "protoss": ("stalker", "zealot", "colossus"),
    "terran": ("marine", "marauder", "medivac"),
    "zerg": ("zergling", "hydralisk", "baneling"),
}
SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
MAPS = tuple(f"{race}_{allies}_vs_{enemies}" for race in RACES for allies, enemies in SIZES)
LISTING = tuple(
    (f"{race}_{n}_vs_{m}", f"{n} against {m} {race} units, random types and positions")
    for race in RACES
    for n, m in SIZES
)


class Sc2v2Args(BaseModel):
    """env_args of sc2v2."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    map_name: str = "protoss_5_vs_5"
    backend: Literal["auto", "starcraft2", "smax"] = "auto"
    time_limit: int | None = Field(None, ge=1)

    @field_validator("map_name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MAPS:
            raise ValueError(f"{name} is no SMACv2 map.{nearest(name, MAPS)}")
        return name


def missing_pieces() -> list[str]:
    """What real SMACv2 lacks on this machine, each piece with its cure; empty where it could run."""
    pieces = []
    if importlib.util.find_spec("smacv2") is None:
        pieces.append("the package smacv2: pip install git+https://github.com/oxwhirl/smacv2.git")
    where = os.environ.get("SC2PATH")
    root = Path(where) if where else Path.home() / "StarCraftII"
    said = f"SC2PATH={where}" if where else f"SC2PATH is not set, and the default is {root}"
    if not (root / "Versions").is_dir():
        pieces.append(
            f"StarCraft II: no folder Versions under it ({said}). Unpack Linux package 4.10 from "
            "https://github.com/Blizzard/s2client-proto#downloads and set SC2PATH to it"
        )
    if not any((root / "Maps").glob("**/32x32_flat.SC2Map")):
        pieces.append(
            f"the SMAC maps: no 32x32_flat.SC2Map under {root / 'Maps'}. Unpack SMAC_Maps.zip from "
            "https://github.com/oxwhirl/smacv2/releases there"
        )
    return pieces


def require(map_name: str = "protoss_5_vs_5", backend: str = "auto", **_: Any) -> None:
    """Raises where the backend that was asked for by name cannot run. Cheap: asked before anything of a run is
    written.
    """
    if backend != "starcraft2":
        return
    if pieces := missing_pieces():
        raise MissingBackendError(
            f"env_args.backend=starcraft2 for {map_name} cannot run, missing:\n"
            + "\n".join(f"  - {piece}" for piece in pieces)
            + "\nUse env_args.backend=smax for the simulator SMAX instead (its results are not StarCraft II results)."
        )
    raise BackendNotFinishedError(
        "StarCraft II and smacv2 are installed, but the StarCraft II backend of sc2v2 is not finished in this version: "
        "use env_args.backend=smax (its results are not StarCraft II results)"
    )


def _smax(args: Sc2v2Args) -> tuple[smax.Battle, str, str]:
    """The battle in SMAX, the backend's name and a note on what it stands for."""
    race, allies, _, enemies = args.map_name.split("_")
    units = tuple(unit for unit in RACES[race] if unit in smax.UNITS)
    left_out = ", ".join(unit for unit in RACES[race] if unit not in smax.UNITS)
    limit = args.time_limit or smax.DEFAULT_LIMIT
    backend = f"{smax.backend_name()}, not StarCraft II"
    note = (
        f"{args.map_name} runs in SMAX, a simulator like StarCraft II but not StarCraft II itself: {allies} {race} "
        f"units ({' and '.join(units)}, no {left_out}) against {enemies}, limit {limit} steps. "
        "Its results are not comparable with SMACv2 results."
    )
    if args.backend == "auto":
        pieces = missing_pieces() or ["a finished StarCraft II backend, which this version does not have"]
        missing = "; ".join(piece.partition(":")[0] for piece in pieces)
        note += f" Missing for StarCraft II: {missing} (env_args.backend=starcraft2 says more)."
    return smax.Battle(None, limit, int(allies), int(enemies), units), backend, note


def make_env(
    map_name: str = "protoss_5_vs_5",
    backend: str = "auto",
    time_limit: int | None = None,
    seed: int | None = None,
    common_reward: bool = True,
    reward_scalarisation: str = "sum",
) -> MultiAgentEnv:
    """One battle. time_limit: steps until truncation, None for the simulator's own (SMAX: 100)."""
    args = Sc2v2Args(map_name=map_name, backend=backend, time_limit=time_limit)  # type: ignore[arg-type]
    require(map_name, backend)
    battle, name, note = _smax(args)
    return smax.SmaxBattleEnv(battle, seed, common_reward, name, note)


def make_batched(
    env_args: dict[str, Any], seeds: list[int], common_reward: bool, reward_scalarisation: str
) -> smax.SmaxVectorEnv:
    """All environments of a run at once, as SMAX allows. StarCraft II, one process a battle, will be no such thing."""
    args = Sc2v2Args(**env_args)
    require(args.map_name, args.backend)
    battle, name, note = _smax(args)
    return smax.SmaxVectorEnv(battle, seeds, common_reward, name, note)
