"""Searches in their slots: taken and joined as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.ascent.state import State, join, take


@dataclass(frozen=True)
class Flight:
    """Searches in their slots: (position, search) of each, evaluations spent on each (R, 2), and their state."""

    place: list[tuple[int, int]] = field(default_factory=list)
    spent: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    state: State | None = None

    def __len__(self) -> int:
        return len(self.place)

    def only(self, index: Sequence[int]) -> Flight:
        """The searches at these places, ascending."""
        if len(index) == len(self):
            return self
        if not index or self.state is None:
            return Flight()
        chosen = torch.tensor(list(index))
        state = take(self.state, chosen.to(self.state.count.device))
        return Flight([self.place[i] for i in index], self.spent[chosen], state)

    @staticmethod
    def joined(parts: list[Flight]) -> Flight:
        if len(parts) <= 1:
            return parts[0] if parts else Flight()
        state = join(*(part.state for part in parts))
        return Flight([p for part in parts for p in part.place], torch.cat([part.spent for part in parts]), state)
