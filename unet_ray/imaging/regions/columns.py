"""Tables as dataclasses: each field is a column, and all columns have the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """Base of dataclasses whose fields are arrays with one row per member.

    Instances keep nothing else in `vars`.
    """

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def of(self, chosen: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Self:
        """Return the members that an index array or a boolean mask selects, in its order."""
        return type(self)(*(column[chosen] for column in vars(self).values()))

    @classmethod
    def concatenate(cls, several: Sequence[Self]) -> Self:
        """Return the members of several tables, one table after the other."""
        columns = []
        for field in fields(cls):
            parts = [getattr(table, field.name) for table in several]
            columns.append(np.concatenate(parts))
        return cls(*columns)


def number_chosen(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Assign 0, 1, 2, … to the chosen members in order, and −1 to all others."""
    return np.where(chosen, np.cumsum(chosen) - 1, -1)
