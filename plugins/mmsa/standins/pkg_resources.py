"""What Sacred asks of pkg_resources, which setuptools 82 no longer has, by importlib.metadata."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata, resources


class _Distribution:
    def __init__(self, distribution: metadata.Distribution) -> None:
        self._distribution = distribution
        self.project_name, self.version = distribution.metadata["Name"], distribution.version

    def _get_metadata(self, name: str) -> list[str]:
        return (self._distribution.read_text(name) or "").splitlines()


class _WorkingSet:
    def __init__(self) -> None:
        found = (_Distribution(each) for each in metadata.distributions() if each.metadata["Name"])
        self.by_key = {each.project_name.lower(): each for each in found}

    def __iter__(self) -> Iterator[_Distribution]:
        return iter(self.by_key.values())


working_set = _WorkingSet()


def resource_filename(package: str, name: str) -> str:
    """The path of a file in an installed package."""
    return str(resources.files(package) / name)
