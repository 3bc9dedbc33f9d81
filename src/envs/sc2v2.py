"""SMACv2 battles by their map names, in StarCraft II or, in its place, in SMAX.

`env_args.backend`: starcraft2 (envs.smacv2; what is missing is listed in one MissingBackendError), smax, or auto
(StarCraft II where it is installed, else SMAX with a warning). `backend` and `banner` of what is built say which it is.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from . import smacv2, smax
from .multiagentenv import MissingBackendError, MultiAgentEnv, nearest
from .smacv2 import MAPS, RACES, SIZES, missing_pieces

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


def backend_of(backend: str = "auto", **_: Any) -> str:
    """starcraft2 or smax: what these env_args are simulated by on this machine."""
    if backend == "auto":
        return "smax" if missing_pieces() else "starcraft2"
    return backend


def require(map_name: str = "protoss_5_vs_5", backend: str = "auto", **_: Any) -> None:
    """Raises where the backend that was asked for by name cannot run. Cheap: asked before anything of a run is
    written.
    """
    pieces = missing_pieces() if backend != "smax" else []
    if backend == "starcraft2" and pieces:
        raise MissingBackendError(
            f"env_args.backend=starcraft2 for {map_name} cannot run, missing:\n{smacv2.listed(pieces)}\n"
            "Use env_args.backend=smax for the simulator SMAX instead (its results are not StarCraft II results)."
        )
    if backend == "smax" or pieces:
        try:
            smax.backend_name()
        except MissingBackendError as error:
            if not pieces:
                raise
            raise MissingBackendError(
                f"{map_name} can run neither in StarCraft II, missing:\n{smacv2.listed(pieces)}\nnor in SMAX, in its "
                f"place: {error}"
            ) from error


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
        missing = "; ".join(piece.partition(":")[0] for piece in missing_pieces())
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
    """One battle. time_limit: steps until truncation, None for the simulator's own (StarCraft II: 200, SMAX: 100)."""
    args = Sc2v2Args(map_name=map_name, backend=backend, time_limit=time_limit)  # type: ignore[arg-type]
    require(map_name, backend)
    if backend_of(backend) == "starcraft2":
        return smacv2.SmacV2Env(map_name, time_limit, seed, common_reward)
    battle, name, note = _smax(args)
    return smax.SmaxBattleEnv(battle, seed, common_reward, name, note)


def make_batched(
    env_args: dict[str, Any], seeds: list[int], common_reward: bool, reward_scalarisation: str
) -> smax.SmaxVectorEnv:
    """All environments of a run at once, as SMAX allows; StarCraft II, one process a battle, is no such thing."""
    args = Sc2v2Args(**env_args)
    battle, name, note = _smax(args)
    return smax.SmaxVectorEnv(battle, seeds, common_reward, name, note)
