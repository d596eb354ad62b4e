"""What is given, sorted and turned into drafts: which objects are autoscalers, which belong together, what is wrong."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rlscaler.convert import hpa, keda
from rlscaler.convert.autoscaler import Autoscaler
from rlscaler.convert.draft import Draft, NoLoad, Options, draft
from rlscaler.convert.given import Refused
from rlscaler.convert.objects import EXPECTED, Object, objects
from rlscaler.convert.workloads import TEMPLATED
from rlscaler.custom_resource import ResourceError
from rlscaler.errors import UserError
from rlscaler.quantities import shown
from rlscaler.resource_values import Place, Problem
from rlscaler.yaml_nodes import YamlError

_SHOWN = 4
"""Names that a line shows before it counts the rest."""


@dataclass(slots=True)
class Found:
    """What was made of the files. refused: autoscalers without a load, a sentence each. passed: lines on the rest."""

    drafts: list[Draft] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def convert(files: Iterable[tuple[str, str | bytes]], options: Options) -> Found:
    """Return what becomes of all autoscalers in files (what messages call each, and its text).

    Raises UserError with a line for each thing that is wrong; then nothing is to be written.
    """
    given, errors = _read(files)
    found = Found()
    scaled = {(_where(o), o.loosely("name")) for o in given if _is_keda(o)}
    workloads = {(o.kind, _where(o), o.loosely("name")): o for o in given
                 if o.kind in TEMPLATED}  # fmt: skip
    autoscalers: dict[str, Autoscaler] = {}
    for each in given:
        if not (_is_hpa(each) or _is_keda(each)):
            continue
        try:
            if (owner := hpa.made_by(each) if _is_hpa(each) else None) is not None:
                _owned(each, owner, scaled, found)
                continue
            made = (hpa if _is_hpa(each) else keda).read(each, workloads)
            if made.key in autoscalers:
                other = autoscalers[made.key].source
                text = f"{made.key} is made of {other.called} already; rename or drop one"
                raise Refused(Problem(Place("metadata.name", each.given.place.line), text))
            autoscalers[made.key] = made
        except Refused as error:
            errors += ResourceError(each.file, error.problems).messages
    if errors:
        raise UserError("\n".join(errors))
    _check_single(autoscalers, options)
    for made in autoscalers.values():
        try:
            found.drafts.append(draft(made, options))
        except NoLoad as error:
            found.refused.append(str(error))
    found.passed += _passed(each for each in given if not _is_hpa(each) and not _is_keda(each)
                            and each.kind not in TEMPLATED)  # fmt: skip
    return found


def _read(files: Iterable[tuple[str, str | bytes]]) -> tuple[list[Object], list[str]]:
    """Return the objects of all files, and a sentence for each thing that is wrong with them."""
    given: list[Object] = []
    errors: list[str] = []
    names = []
    for file, text in files:
        names.append(file)
        try:
            given += objects(text, file)
        except YamlError as error:
            errors += ResourceError(file, [Problem(Place("", error.line), str(error))]).messages
        except Refused as error:
            errors += ResourceError(file, error.problems).messages
    if not errors and not any(_is_hpa(each) or _is_keda(each) for each in given):
        errors.append(f"{', '.join(names)}: nothing to convert; expected {EXPECTED}")
    return given, errors


def _is_hpa(each: Object) -> bool:
    return (each.group, each.kind) == (hpa.GROUP, hpa.KIND)


def _is_keda(each: Object) -> bool:
    return (each.group, each.kind) == (keda.GROUP, keda.KIND)


def _where(each: Object) -> str:
    return each.loosely("namespace") or "default"


def _owned(each: Object, owner: str, scaled: set[tuple[str, str]], found: Found) -> None:
    """Tell of an HPA that a ScaledObject makes."""
    if (_where(each), owner) in scaled:
        found.passed.append(f"passed over: {each.called}, which ScaledObject {shown(owner)} makes")
    else:
        found.refused.append(
            f"{each.called} is made by ScaledObject {shown(owner)}; give that instead: kubectl get scaledobject "
            f"{shown(owner)} -n {shown(_where(each))} -o yaml"
        )


def _check_single(autoscalers: dict[str, Autoscaler], options: Options) -> None:
    for option, value in (("--load", options.load), ("--capacity", options.capacity), ("--startup", options.startup)):
        if value is not None and len(autoscalers) > 1:
            names = _some(list(autoscalers))
            raise UserError(
                f"{option} is of one workload, and {len(autoscalers)} are given ({names}); expected one in -f"
            )


def _passed(others: Iterable[Object]) -> list[str]:
    """Return a line for each kind that is neither converted nor looked at."""
    by_kind: dict[str, list[str]] = {}
    for each in others:
        by_kind.setdefault(each.kind, []).append(each.called.removeprefix(f"{shown(each.kind)} "))
    return [f"passed over: {shown(kind)} {_some(names)}" for kind, names in by_kind.items()]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
