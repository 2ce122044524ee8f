"""The interface of every question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from holdfast.explain.case import Case
from holdfast.explain.found import Figure, Found

Step = Callable[[str, int, int], None]
"""Called with a name, how much is done, and how much there is."""


class Effort(NamedTuple):
    """What an answer takes: forwards and input gradients, each of one image by one net."""

    forwards: int
    gradients: int


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """A question about nets: a frozen dataclass whose fields are its settings.

    Args:
        images: how many images are taken, if there are so many and the budget allows it.
    """

    question: ClassVar[str]
    """In the words of the person who asks it."""
    least: ClassVar[int] = 2
    """With fewer images there is no answer."""

    images: int = 100

    def refuses(self, case: Case) -> str:
        """Why the question cannot be asked of this case, and what would help; empty where it can."""
        return ""

    @abstractmethod
    def effort(self, case: Case, n: int) -> Effort:
        """What ``ask`` takes for n images, about; known before anything runs."""

    @abstractmethod
    def ask(self, case: Case, step: Step) -> Found:
        """The answer for all images of the case. The same case gives the same answer, bit for bit on one machine."""

    @abstractmethod
    def draw(self, found: Found) -> tuple[Figure, ...]:
        """The figures, from what was found alone: they can be drawn again at any time."""
