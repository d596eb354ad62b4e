"""Lists of names in one option of the command line, separated by commas."""

from rlscaler.errors import UserError
from rlscaler.quantities import shown


def names_in(text: str, option: str, example: str, *, or_none: bool = False) -> tuple[str, ...]:
    """Return the names of a list in their order, as often as they stand in it.

    option, example: for the sentence. or_none: whether an empty text stands for nobody. Raises UserError where no name
    is found: a list that went empty in a script must not stand for an option that was left out.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found and (text.strip() or not or_none):
        raise UserError(f"{option} {shown(text)}: no name; expected names separated by commas, such as {example}")
    return found
