"""Durations, Kubernetes quantities and percentages as text, read into floats of one unit.

The grammars are those that the API server reads (Go's `time.ParseDuration` without its units below a
millisecond; `k8s.io/apimachinery/pkg/api/resource.Quantity`), so a resource means the same on a laptop and
in the cluster. The patterns are shared with the CRD's schema and use nothing that RE2 lacks.
"""

import math
import re
from decimal import Decimal

DURATION_PATTERN = r"^([0-9]{1,7}(\.[0-9]{1,6})?(h|m|s|ms))+$"
QUANTITY_PATTERN = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
NUMBER_PATTERN = r"^[0-9]+(\.[0-9]+)?$"

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")
_SECONDS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_LONGEST = 64
"""Characters; nothing that a person means is longer, and it bounds the work on text from elsewhere."""


class QuantityError(ValueError):
    """Text that is no duration, quantity or number; the message says what was found and what is expected."""


def shown(value: object) -> str:
    """Return a value as a message quotes it: plain where it is one printable word, else in quotes, never long."""
    text = str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    return text if text.isprintable() and text and not any(c.isspace() for c in text) else repr(text)


def printable(text: str) -> str:
    """Return a line without anything that would steer the terminal it is printed on, as text from elsewhere might."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def duration(value: str | float) -> float:
    """Return a duration such as 15s, 1m30s, 500ms or 2h in seconds.

    Raises QuantityError for anything else; a number without a unit is refused, since seconds, milliseconds
    and minutes are all in use.
    """
    text = "" if isinstance(value, bool) else str(value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and len(text) <= _LONGEST:
        raise QuantityError(f"{text} has no unit; write {text}s if seconds are meant")
    if days := re.fullmatch(r"([0-9]{1,5})d", text):
        raise QuantityError(f"{text} is in days; write {int(days[1]) * 24}h")
    if len(text) > _LONGEST or not re.fullmatch(DURATION_PATTERN, text):
        raise QuantityError(f"{shown(value)} is not a duration; expected one such as 15s, 1m30s, 500ms or 2h")
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in _PART.findall(text)))


def duration_text(seconds: float) -> str:
    """Return seconds, to the millisecond, in the form that `duration` reads: 90.0 becomes 1m30s."""
    rest = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def whole_text(seconds: float, unit: str) -> str:
    """Return seconds as `d` or `h` where that is short and reads back the same, else as `duration_text`: 4d, 0.5h, 20m.

    It is for a command that can be given again.
    """
    size = {"d": 86_400.0, "h": 3600.0}[unit]
    short = f"{seconds / size:g}"
    return f"{short}{unit}" if size * float(short) == seconds else duration_text(seconds)


def quantity(value: str | float) -> float:
    """Return a Kubernetes quantity (50, "50", 500m, 1k, 1Ki, 2.5, 1e3) as a float.

    Raises QuantityError for anything else, and for numbers that are not finite.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise QuantityError(f"{value} is not finite; expected a quantity such as 50, 500m, 1k or 2.5")
        return float(value)
    return float(exact_quantity(value))


def exact_quantity(value: str | bool) -> Decimal:
    """Return a Kubernetes quantity that is written as text, with all its digits: bounds are compared with these.

    Raises QuantityError for anything else.
    """
    text = "" if isinstance(value, bool) else value
    found = re.fullmatch(QUANTITY_PATTERN, text) if len(text) <= _LONGEST else None
    if not found:
        raise QuantityError(f"{shown(value)} is not a quantity; expected one such as 50, 500m, 1k, 1Ki or 2.5")
    amount, suffix = Decimal(found[1]), found[3] or ""
    if suffix in _BINARY:
        amount *= 1024 ** _BINARY[suffix]
    else:
        amount = amount.scaleb(_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
    return -amount if text[0] == "-" else amount


def number(value: str | float) -> float:
    """Return a plain decimal number ("99.9", 99, 0.95) as a float.

    Raises QuantityError for anything else, a % sign included.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise QuantityError(f'{value} is not finite; expected a number such as "99.9"')
        return float(value)
    text = "" if isinstance(value, bool) else str(value)
    if len(text) <= _LONGEST and re.fullmatch(NUMBER_PATTERN, text.removeprefix("-")):
        return float(text)
    if re.fullmatch(NUMBER_PATTERN, text[:-1]) and text[-1:] == "%":
        raise QuantityError(f'{shown(text)} has a % sign; write "{text[:-1]}"')
    raise QuantityError(f'{shown(value)} is not a plain number; expected one such as "99.9"')


percent = number
"""Percentages are plain numbers: "99.9" is 99.9 percent."""
