"""Floor 5: why a model is robust or is not: questions asked of the model beside a twin and a control.

A newcomer adds a question by writing one file in ``questions/``: a frozen dataclass marked ``@register``, derived from
`holdfast.explain.probe.Probe`. The mathematics that it needs, where others need it too, stands in `holdfast.probes`.
Calling this package is calling `holdfast.explain.api.explain`, as with `holdfast.audit`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.explain.run import Explanation


class _Explain(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Explanation:
        from holdfast.explain.api import explain

        return explain(*args, **options)


sys.modules[__name__].__class__ = _Explain
