"""Durations, quantities and plain numbers: what is read, what is refused and with which words."""

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlscaler.quantities import (
    DURATION_PATTERN,
    NUMBER_PATTERN,
    QUANTITY_PATTERN,
    QuantityError,
    duration,
    duration_text,
    number,
    percent,
    quantity,
    shown,
    whole_text,
)

FUZZ = settings(deadline=None, derandomize=True, max_examples=400)
NEAR_MISSES = st.text(alphabet="0123456789.-+eEhmsdkKMiGn% ", max_size=12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("2h", 7200.0),
        ("0s", 0.0),
        ("1.5h", 5400.0),
        ("0.1s", 0.1),
        ("1h1m1s1ms", 3661.001),
        ("30s1m", 90.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (15, "15 has no unit; write 15s if seconds are meant"),
        ("15", "15 has no unit; write 15s if seconds are meant"),
        (1.5, "1.5 has no unit; write 1.5s if seconds are meant"),
        ("2d", "2d is in days; write 48h"),
        ("-5s", "-5s is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        ("15 s", "'15 s' is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        ("", "'' is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        ("15s\n", "'15s\\n' is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        ("1:30", "1:30 is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        ("١٥s", "١٥s is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
        (True, "True is not a duration; expected one such as 15s, 1m30s, 500ms or 2h"),
    ],
)
def test_refused_durations(value: str | float, message: str) -> None:
    with pytest.raises(QuantityError) as caught:
        duration(value)
    assert str(caught.value) == message


@FUZZ
@given(st.integers(min_value=0, max_value=10**10))
def test_a_duration_in_text_reads_back(milliseconds: int) -> None:
    assert round(duration(duration_text(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("50", 50.0),
        (50, 50.0),
        (2.5, 2.5),
        ("2.5", 2.5),
        ("2.", 2.0),
        (".5", 0.5),
        ("500m", 0.5),
        ("250u", 0.00025),
        ("7n", 7e-9),
        ("1k", 1e3),
        ("1Ki", 1024.0),
        ("2Mi", 2.0 * 1024**2),
        ("1Ei", 1024.0**6),
        ("1E", 1e18),
        ("1e3", 1e3),
        ("1E-2", 0.01),
        ("-3", -3.0),
        ("+3", 3.0),
    ],
)
def test_quantities(value: str | float, expected: float) -> None:
    assert quantity(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-",
        "+",
        "1K",
        "1ki",
        "1kk",
        "1 k",
        "1,5",
        "0x10",
        "1e",
        "1e999",
        "inf",
        "nan",
        "1_000",
        True,
        "9" * 99,
    ],
)
def test_refused_quantities(value: str | bool) -> None:
    with pytest.raises(QuantityError, match=r"is not a quantity; expected one such as 50, 500m, 1k, 1Ki or 2\.5"):
        quantity(value)


@pytest.mark.parametrize("read", [quantity, number])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(read: object, value: float) -> None:
    assert callable(read)
    with pytest.raises(QuantityError, match="is not finite"):
        read(value)


@FUZZ
@given(
    st.integers(min_value=0, max_value=10**9),
    st.integers(min_value=0, max_value=999),
    st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
)
def test_a_quantity_is_the_nearest_float_of_its_exact_value(whole: int, thousandths: int, suffix: str) -> None:
    scale = Fraction(1024) ** (" KMGTPE".index(suffix[0])) if suffix.endswith("i") else (
        Fraction(1000) ** ("num kMGTPE".index(suffix or " ") - 3)
    )  # fmt: skip
    exact = (whole + Fraction(thousandths, 1000)) * scale
    assert quantity(f"{whole}.{thousandths:03d}{suffix}") == float(exact)


@pytest.mark.parametrize(("value", "expected"), [("99.9", 99.9), (99, 99.0), ("0", 0.0), ("0.95", 0.95), ("-1", -1.0)])
def test_plain_numbers(value: str | float, expected: float) -> None:
    assert percent(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("99.9%", '99.9% has a % sign; write "99.9"'),
        ("", "'' is not a plain number; expected one such as \"99.9\""),
        ("%", '% is not a plain number; expected one such as "99.9"'),
        ("1e3", '1e3 is not a plain number; expected one such as "99.9"'),
        ("99,9", '99,9 is not a plain number; expected one such as "99.9"'),
        (True, 'True is not a plain number; expected one such as "99.9"'),
    ],
)
def test_refused_plain_numbers(value: str | bool, message: str) -> None:
    with pytest.raises(QuantityError) as caught:
        percent(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("read", "pattern"),
    [(duration, DURATION_PATTERN), (quantity, QUANTITY_PATTERN), (number, NUMBER_PATTERN)],
    ids=["duration", "quantity", "number"],
)
@FUZZ
@example(text="1h1m1s1ms")
@example(text="1.5Ki")
@example(text="99.9")
@given(text=NEAR_MISSES)
def test_text_is_read_exactly_where_its_pattern_matches(
    read: Callable[[object], float], pattern: str, text: str
) -> None:
    """The CRD's schema has the patterns, so what differs would pass one door and not the other."""
    unsigned = text[1:] if read is not duration and text[:1] in ("-", "+")[: 1 + (read is quantity)] else text
    try:
        read(text)
        accepted = True
    except QuantityError:
        accepted = False
    assert accepted == bool(re.fullmatch(pattern, unsigned)), text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("web", "web"),
        ("a b", "'a b'"),
        ("", "''"),
        ("a\nb", "'a\\nb'"),
        ("x" * 99, "x" * 61 + "..."),
        (15, "15"),
    ],
)
def test_values_are_quoted_in_messages_where_they_are_no_plain_word(value: object, expected: str) -> None:
    assert shown(value) == expected


TEXTS = {
    (345_600.0, "d"): "4d",
    (21_600.0, "d"): "0.25d",
    (7200.0, "d"): "2h",
    (1800.0, "h"): "0.5h",
    (1200.0, "h"): "20m",
}


@pytest.mark.parametrize(("span", "text"), TEXTS.items())
def test_seconds_in_one_unit_read_back_the_same(span: tuple[float, str], text: str) -> None:
    assert whole_text(*span) == text
