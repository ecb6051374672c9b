"""Rows as columns: dataclasses whose fields are arrays of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """Base of dataclasses whose fields are arrays with a row per member, and that keep nothing else in `vars`."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def of(self, chosen: Any) -> Self:
        """Return some of the members, in the order of an index or mask."""
        return type(self)(*(column[chosen] for column in vars(self).values()))

    @classmethod
    def concatenated(cls, several: Sequence[Self]) -> Self:
        """Return the members of several."""
        return cls(
            *(np.concatenate([getattr(one, f.name) for one in several]) for f in fields(cls))
        )


def numbered(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the place of each chosen member among the chosen, from 0; −1 for the others."""
    return np.where(chosen, np.cumsum(chosen) - 1, -1)
