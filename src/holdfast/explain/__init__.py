"""Why a model is robust or is not: one file = one question, asked of the model beside a twin and a control.

A newcomer adds a question by writing one file here: a frozen dataclass marked ``@register``, derived from
`holdfast.explain.probe.Probe`. The mathematics that it needs, where others need it too, stands in `holdfast.probes`.
"""
