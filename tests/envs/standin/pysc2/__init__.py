"""Stand-in for pysc2: the ways in which a game process fails."""

import sys
from types import ModuleType


def _module(name: str, **content: object) -> ModuleType:
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(content)
    return module


class ProcessError(Exception):
    """Base of the five, which have nothing in common in pysc2."""


def _errors(name: str, *classes: str) -> ModuleType:
    return _module(name, **{cls: type(cls, (ProcessError,), {}) for cls in classes})


lib = _module("pysc2.lib", __path__=[])
lib.protocol = _errors("pysc2.lib.protocol", "ConnectionError", "ProtocolError")
lib.remote_controller = _errors("pysc2.lib.remote_controller", "ConnectError", "RequestError")
lib.sc_process = _errors("pysc2.lib.sc_process", "SC2LaunchError")
