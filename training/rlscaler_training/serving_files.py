"""The files of policies that are served, and what is new in them: checked before anybody hears of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlscaler.errors import UserError
from rlscaler_training import serving
from rlscaler_training.serving import Offer, Wanted


class Followed:
    """Files that may change at any time; a new one is taken in once it is whole and good."""

    def __init__(self, wanted: Sequence[Wanted], offers: Sequence[Offer]) -> None:
        """Take what is wanted, and what its files held when they were read: the first look reads them once more."""
        self._wanted = tuple(wanted)
        self._current = {offer.name: offer for offer in offers}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._doubted: dict[str, str] = {}

    def current(self) -> list[Offer]:
        """Return the last good ones."""
        return list(self._current.values())

    def changed(self, tell: Callable[[str], None]) -> list[Offer]:
        """Return what is new since the last look. tell: hears a line of each file that is refused, once."""
        return [offer for each in self._wanted if (offer := self._looked_at(each, tell)) is not None]

    def _looked_at(self, each: Wanted, tell: Callable[[str], None]) -> Offer | None:
        now = version(each.path)
        first = now != self._seen.get(each.name)
        if not first and each.name not in self._doubted:
            return None
        self._seen[each.name] = now
        try:
            offer = serving.offered(each)
        except UserError as error:
            # What cannot be read may be half written: it is told at the second look alike.
            if not first and self._doubted.get(each.name) != str(error):
                tell(f"{error}; the policy before stays in use")
            self._doubted[each.name] = "" if first else str(error)
            return None
        self._doubted.pop(each.name, None)
        if offer.data == self._current[each.name].data:
            return None
        self._current[each.name] = offer
        return offer


def version(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, or the files of a folder; empty where it cannot be told."""
    try:
        found = path.stat()
        inside = max((each.stat().st_mtime_ns for each in path.iterdir()), default=0) if path.is_dir() else 0
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, inside)
