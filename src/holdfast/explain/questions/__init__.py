"""The questions: a file marked ``@register`` is one, under its own name; the files beside it are parts of some."""
