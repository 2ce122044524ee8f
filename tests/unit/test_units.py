"""The only parser of radii."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.foundation.errors import BadValue
from holdfast.foundation.units import parse, show

number = st.from_regex(r"[+-]?[0-9]{0,5}\.?[0-9]{0,5}([eE][+-]?[0-9]{1,4})?", fullmatch=True)
nearly = st.builds(
    "{}{}{}{}".format, number, st.sampled_from(["", "/", " / ", "//"]), number, st.sampled_from(["", "px", "deg", "x"])
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e-2", 0.01),
        ("0", 0.0),
        ("1e-2/2", 0.005),
        (3, 3.0),
        (0.25, 0.25),
        (np.float64(0.25), 0.25),
    ],
)
def test_values(text: str | float, value: float) -> None:
    assert parse(text) == value


def test_units() -> None:
    assert parse("2px", unit="px") == parse(2, unit="px") == parse("2", unit="px") == 2.0
    assert parse("10 deg", unit="deg") == 10.0
    for text, unit in (("2px", ""), ("2px", "deg"), ("2deg", "px")):
        with pytest.raises(BadValue, match="measured"):
            parse(text, unit=unit)


@given(st.one_of(st.text(), nearly), st.sampled_from(["", "px", "deg"]))
@example("1/0", "")
@example("0e0/0e0", "")
@example("1e999", "")
@example("1/1e400", "")
@example("9" * 5000 + "/3", "")
@example("9" * 400 + "/1", "")
@example("-1", "")
def test_any_text_is_a_number_or_a_bad_value(text: str, unit: str) -> None:
    try:
        value = parse(text, unit=unit)
    except BadValue as error:
        assert error.hint
    else:
        assert math.isfinite(value) and value >= 0


@given(st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), st.complex_numbers(), st.lists(st.floats())))
@example(10**5000)
@example(-(10**400))
def test_anything_else_too(given: object) -> None:
    try:
        value = parse(given)  # type: ignore[arg-type]
    except BadValue as error:
        assert str(error)
    else:
        assert value == float(given)  # type: ignore[arg-type]


def test_a_tiny_fraction_does_not_pass_for_a_division_by_infinity() -> None:
    with pytest.raises(BadValue, match="finite"):
        parse("1/1e400")


@given(st.floats(0, 1e6))
def test_shown_values_parse_back(value: float) -> None:
    assert parse(show(value)) == pytest.approx(value, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.5, "0.5"), (0, "0"), (0.2, "0.2"), (1, "1"), (math.inf, "inf"), (math.nan, "nan")],
)
def test_show(value: float, text: str) -> None:
    assert show(value) == text
