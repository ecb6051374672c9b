"""JSON from untrusted files: the type of every value is checked when it is read."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn, TypeGuard

from unet_ray.errors import InputError
from unet_ray.flags import NAME_RULE, is_name

_MAX_LEVELS = 64
"""Largest depth of nested objects and lists. Python walks them by recursion, also to send them to
workers, and fails at a few hundred."""
_MAX_SHOWN = 40
"""Longest key that messages show in full (characters)."""
_TOO_DEEP = f"objects and lists are nested more than {_MAX_LEVELS} levels deep"


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file.

    Each method returns one value, and raises InputError with the path of the value in the file if
    it is missing or of another type.

    Args:
        values: The object, as `json.loads` returns it.
        path: Path of the object in its file, as in `network`; empty for the whole file.
    """

    values: dict[str, Any]
    path: str = ""

    @staticmethod
    def parse(data: bytes) -> JsonObject:
        """Parse a JSON file that holds one object.

        Raises:
            InputError: Bytes that are not JSON, or JSON that is not an object or nested too deeply.
        """
        try:
            value = json.loads(data.decode())
        except ValueError as error:
            raise InputError(f"not JSON: {error}") from None
        except RecursionError:
            raise InputError(_TOO_DEEP) from None
        if _is_nested(value, _MAX_LEVELS):
            raise InputError(_TOO_DEEP)
        return JsonObject.of(value, "")

    @staticmethod
    def of(value: object, path: str) -> JsonObject:
        """Return a value as an object; raise InputError if it is not one."""
        if not isinstance(value, dict):
            _refuse(path, value, "an object")
        return JsonObject(value, path)

    def get(self, name: str) -> Any:
        """Return a value of any type."""
        if name not in self.values:
            raise InputError(f"{self._path_of(name)} is missing")
        return self.values[name]

    def object(self, name: str) -> JsonObject:
        """Return an object."""
        return self.of(self.get(name), self._path_of(name))

    def objects(self, name: str) -> list[JsonObject]:
        """Return the objects of a list."""
        return [self.of(value, path) for path, value in self._items(name)]

    def text(self, name: str) -> str:
        """Return a short text in one line."""
        return _check_text(self._path_of(name), self.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a list, each short and in one line."""
        return tuple(_check_text(path, value) for path, value in self._items(name))

    def integer(self, name: str) -> int:
        """Return a whole number that 64 bits hold."""
        return _check_integer(self._path_of(name), self.get(name))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return the whole numbers of a list."""
        return tuple(_check_integer(path, value) for path, value in self._items(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return the finite numbers of a list; those without a fraction may be of type int."""
        return tuple(_check_number(path, value) for path, value in self._items(name))

    def _items(self, name: str) -> list[tuple[str, Any]]:
        """Return the path and the value of each item of a list."""
        path = self._path_of(name)
        values = self.get(name)
        if not isinstance(values, list):
            _refuse(path, values, "a list")
        return [(f"{path}[{index}]", value) for index, value in enumerate(values)]

    def _path_of(self, name: str) -> str:
        is_plain = name.isidentifier() and len(name) <= _MAX_SHOWN
        shown = name if is_plain else reprlib.repr(name)
        return f"{self.path}.{shown}" if self.path else shown


def _is_nested(value: object, levels: int) -> bool:
    """Tell whether objects and lists are nested deeper than a number of levels."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_nested(one, levels - 1) for one in inner)


def _is_integer(value: object) -> TypeGuard[int]:
    if not isinstance(value, int) or isinstance(value, bool):  # true and false are ints in Python
        return False
    return -(2**63) <= value < 2**63


def _check_text(path: str, value: object) -> str:
    if not isinstance(value, str) or not is_name(value):
        _refuse(path, value, NAME_RULE)
    return value


def _check_integer(path: str, value: object) -> int:
    if not _is_integer(value):
        _refuse(path, value, "a whole number")
    return value


def _check_number(path: str, value: object) -> float:
    if isinstance(value, float) and isfinite(value):
        return value
    if not _is_integer(value):
        _refuse(path, value, "a finite number")
    return value


def _refuse(path: str, value: object, allowed: str) -> NoReturn:
    shown = f"{path} {reprlib.repr(value)}" if path else reprlib.repr(value)
    raise InputError(f"{shown} is not {allowed}")
