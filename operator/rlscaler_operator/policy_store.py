"""The policies that workloads may name: built-in ones, and artifacts in a mounted folder and in ConfigMaps.

A policy is called as its file without `.rlz`, in the folder and among the keys of a ConfigMap's binaryData alike (each
ConfigMap that carries the label `rlscaler.io/policy: "true"` in the operator's own namespace). Where a name is there
twice, the harder one to change wins: a built-in one, then the folder (whoever installs the operator mounts it), then
ConfigMaps in the order of their names. What is passed over for that is said (`notes`).

What changes is taken in at the next `refresh`. An artifact decides only after it has been read whole, its digest,
schema and arrays have been checked and it has given finite answers on trial; nothing is unpickled. One that fails is
refused, with a note that names it, and the last good one stays in use, also over further refreshes, until a good one is
there. One that is deleted stays in use as well, until the operator restarts: a decision that a person has rolled out is
not to end because a file has gone. A workload that pins a digest keeps the policy of that digest while it is the one in
use or the one before.
"""

import difflib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from rlscaler.artifact import SUFFIX, Artifact, ArtifactError, loads
from rlscaler.container import read_file
from rlscaler.policies import BUILT_IN, RULES, PolicyError, from_artifact, load_policy, with_tenure
from rlscaler.policy import Policy
from rlscaler.quantities import shown
from rlscaler.resource_fields import OBJECT_NAME
from rlscaler.resource_values import matches
from rlscaler.tenured import ADVISORY, ON, Tenured
from rlscaler.trial import require_answers, require_numbers
from rlscaler_operator.model import Note, PolicyInUse

LARGEST = 8 * 2**20
"""Bytes of an artifact, packed and unpacked."""
_LISTED = 12
_NO_OPTION = "; raise max_bytes if that is intended"
_DO = "export it again with this version of rlscaler, or put the former file back"


class PolicyRefused(Exception):  # noqa: N818  (an answer, and no fault of the program)
    """There is no policy of that name that can be used; `note` says why and what to do."""

    def __init__(self, note: Note) -> None:
        """Take the note."""
        super().__init__(note.message)
        self.note = note


class ConfigMap(Protocol):
    """What is needed of a ConfigMap."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def resource_version(self) -> str:
        """Changes with its content."""
        ...

    @property
    def binary_data(self) -> Mapping[str, bytes]:
        """Its binaryData, decoded."""
        ...


class _Source(NamedTuple):
    """Where an artifact is: how messages call it, what changes with its content, and one of path and data."""

    called: str
    version: tuple[int | str, ...]
    path: Path | None = None
    data: bytes = b""


class _Loaded(NamedTuple):
    """A policy that may decide.

    modes: what it is with each mode of tenure that was asked for, so that workloads of one mode are decided together.
    """

    policy: Policy
    in_use: PolicyInUse
    called: str
    modes: dict[str, tuple[Policy, PolicyInUse]]

    def having(self, tenure: str | None) -> tuple[Policy, PolicyInUse]:
        """Return the policy in a mode of tenure, None: as it is. Raises PolicyRefused."""
        if tenure is None:
            return self.policy, self.in_use
        if tenure not in self.modes:
            try:
                name = self.in_use.name
                made = load_policy(name, tenure=tenure) if name in BUILT_IN else with_tenure(self.policy, tenure)
            except PolicyError as error:
                raise _refused(f"spec.policy.tenure: {error}") from error
            found = made, replace(self.in_use, tenure=_mode_of(made))
            # a mode that changes nothing is the policy itself, and its workloads are decided beside the others
            self.modes[tenure] = (self.policy, self.in_use) if found[1] == self.in_use else found
        return self.modes[tenure]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of one name.

    current: the policy in use, None where none was ever good. former: the one before. source: what was last looked at,
    None where it is gone. doubted: it could not be read at the last look, and may be half written. problem: why what is
    there now is not in use.
    """

    current: _Loaded | None = None
    former: _Loaded | None = None
    source: _Source | None = None
    doubted: bool = False
    problem: Note | None = None

    @property
    def told(self) -> tuple[object, ...]:
        """What workloads are told of it."""
        return (self.source is None, self.current and self.current.in_use, self.problem)


class PolicyStore:
    """The policies by name; `refresh` follows what changes. One thread may refresh while another gets."""

    def __init__(self, folder: Path | None = None) -> None:
        """Look into the folder (None: there is none)."""
        self._folder = folder
        self._built_in = {name: _made(name, load_policy(name), "built in") for name in BUILT_IN}
        self._entries: dict[str, _Entry] = {}
        self._offered: dict[str, _Source] = {}
        self._offer_notes: list[Note] = []
        self._folder_notes: list[Note] = []
        self.refresh()

    def get(self, name: str, digest: str | None = None, tenure: str | None = None) -> tuple[Policy, PolicyInUse]:
        """Return a policy, of that digest where one is given, in that mode of tenure. Raises PolicyRefused."""
        if name in self._built_in:
            found = self._built_in[name]
            if digest is not None and name in RULES:
                raise _refused(f"spec.policy.digest: {name} is a rule of this version and has no digest; leave it out, "
                               f"or name an artifact in spec.policy.name")  # fmt: skip
            if digest not in (None, found.in_use.digest):
                raise _refused(f"spec.policy.digest: {name} of this version has {found.in_use.digest}; expected "
                               f"{digest}; pin that one, or bring the other as an artifact of its own "
                               f"name")  # fmt: skip
            return found.having(tenure)
        entry = self._entries.get(name)
        if entry is None:
            raise PolicyRefused(Note("PolicyNotFound", self._not_found(name)))
        if entry.current is None:
            assert entry.problem is not None
            raise PolicyRefused(entry.problem)
        for loaded in (entry.current, entry.former):
            if loaded is not None and digest in (None, loaded.in_use.digest):
                return loaded.having(tenure)
        raise _refused(f"spec.policy.digest: {entry.current.called} has {entry.current.in_use.digest}; expected "
                       f"{digest}; put the right file there, or change the digest")  # fmt: skip

    def problem(self, name: str, digest: str | None = None) -> Note | None:
        """Return why what is there now is not what `get` returns; None where it is, or where `get` raises."""
        entry = self._entries.get(name)
        if entry is None or entry.current is None:
            return None
        found = entry.current.in_use.digest
        if digest in (None, found):
            return entry.problem
        if entry.former is None or entry.former.in_use.digest != digest:
            return None
        text = f"spec.policy.digest: {entry.current.called} has {found} now; the pinned one stays in use until the"
        return Note("PolicyRefused", f"{text} operator restarts: pin the new digest, or put the former file back")

    def names(self) -> list[str]:
        """Return the names that `get` knows: built-in ones, then artifacts in alphabetical order."""
        return [*BUILT_IN, *sorted(name for name, entry in self._entries.items() if entry.current is not None)]

    def notes(self) -> list[Note]:
        """Return what is wrong with files and ConfigMaps: those refused, passed over, or without a policy."""
        problems = [entry.problem for _, entry in sorted(self._entries.items()) if entry.problem is not None]
        return problems + self._folder_notes + self._offer_notes

    def offer(self, config_maps: Iterable[ConfigMap]) -> None:
        """Take in the ConfigMaps that there are now, all of them; they count from the next `refresh` on."""
        found: dict[str, _Source] = {}
        notes: list[Note] = []
        for each in sorted(config_maps, key=lambda each: each.name):
            keys = [key for key in sorted(each.binary_data) if key.endswith(SUFFIX)]
            if not keys:
                how = f"make it with kubectl create configmap {each.name} --from-file=NAME{SUFFIX}"
                notes.append(_passed_over(f"ConfigMap {each.name}", f"it has no key NAME{SUFFIX} in binaryData; {how}"))
            for key in keys:
                called = f"ConfigMap {each.name}, key {key}"
                source = _Source(called, (each.name, each.resource_version), data=each.binary_data[key])
                self._admit(found, notes, key.removesuffix(SUFFIX), source)
        self._offered, self._offer_notes = found, notes

    def refresh(self) -> set[str]:
        """Take in what has changed; return the names whose policy, or problem, is another one now.

        Where nothing has changed it costs a listing of the folder.
        """
        there = self._in_folder()
        for name, source in self._offered.items():
            if name in there:
                self._folder_notes.append(_passed_over(source.called, f"there is {there[name].called} of that name, "
                                                                      "which comes first; rename one"))  # fmt: skip
            there.setdefault(name, source)
        entries, changed = dict(self._entries), set()
        for name in sorted(there.keys() | entries.keys()):
            before = entries.get(name, _Entry())
            after = entries[name] = _looked_at(name, before, there.get(name))
            if after.source is None and after.current is None:
                del entries[name]
            if after.told != before.told:
                changed.add(name)
        self._entries = entries
        return changed

    def _in_folder(self) -> dict[str, _Source]:
        """Return the artifacts of the folder, and note what is wrong with it."""
        found: dict[str, _Source] = {}
        notes: list[Note] = []
        if self._folder is not None:
            try:
                # names that begin with a dot are a mount's own, or a file that is being written
                for path in sorted(self._folder.iterdir()):
                    if path.suffix == SUFFIX and not path.name.startswith("."):
                        source = _Source(str(path), _version(path), path=path)
                        self._admit(found, notes, path.stem, source)
            except OSError as error:
                why = error.strerror or str(error)
                notes.append(_passed_over(str(self._folder), f"it cannot be listed: {why}; expected a folder"))
        self._folder_notes = notes
        return found

    def _admit(self, found: dict[str, _Source], notes: list[Note], name: str, source: _Source) -> None:
        if name in BUILT_IN:
            notes.append(_passed_over(source.called, f"{name} is a built-in policy; rename the file"))
        elif len(name) > OBJECT_NAME.longest or not matches(OBJECT_NAME.pattern, name):
            notes.append(_passed_over(source.called, f"{shown(name)} is no name that a resource can say; expected "
                                                     f"{OBJECT_NAME.expected}; rename the file"))  # fmt: skip
        elif name in found:
            notes.append(_passed_over(source.called, f"{found[name].called} has that name and comes first; rename one"))
        else:
            found[name] = source

    def _not_found(self, name: str) -> str:
        known = self.names()
        near = difflib.get_close_matches(name[:64], known, n=1)
        listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
        told = f"did you mean {near[0]}? There are {listed}" if near else f"there are {listed}"
        folder = f"the folder {self._folder} and in " if self._folder is not None else ""
        return (
            f"spec.policy.name: {shown(name)} is no policy here; {told}. Artifacts ({shown(name)}{SUFFIX}) are looked "
            f'for in {folder}ConfigMaps with the label rlscaler.io/policy: "true" in the operator\'s namespace'
        )


def _version(path: Path) -> tuple[int | str, ...]:
    """Return what changes when a file does, through any links; empty where it cannot be told."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, stat.S_IFMT(found.st_mode))


def _looked_at(name: str, before: _Entry, source: _Source | None) -> _Entry:
    """Return what is known of a name after a look at what is there now; `before` itself where nothing has changed."""
    if source is None:
        if before.source is None:
            return before
        gone = Note("PolicyNotFound", f"{before.source.called} is gone; what it held stays in use until the operator "
                                      f"restarts: put it back, or change spec.policy.name")  # fmt: skip
        return replace(before, source=None, doubted=False, problem=gone)
    same = before.source is not None and (before.source.called, before.source.version) == (
        source.called,
        source.version,
    )
    if same and not before.doubted:
        return before
    try:
        loaded = _loaded(name, source)
    except (ArtifactError, PolicyError) as error:
        text = str(error).replace(_NO_OPTION, "")
        problem = Note("PolicyRefused", f"{source.called}: {text}; {_DO}")
        # what cannot be read may be half written: while another decides, it is told at the second look alike
        quiet = before.current is not None and not same
        return replace(before, source=source, doubted=quiet, problem=before.problem if quiet else problem)
    if before.current is not None and before.current.in_use == loaded.in_use:
        kept = before.current._replace(called=loaded.called)
        return replace(before, current=kept, source=source, doubted=False, problem=None)
    return _Entry(current=loaded, former=before.current, source=source)


def _loaded(name: str, source: _Source) -> _Loaded:
    """Return the policy of an artifact after all checks. Raises ArtifactError or PolicyError."""
    data = source.data
    if source.path is not None:
        try:
            data = read_file(source.path, LARGEST)
        except OSError as error:
            raise ArtifactError(
                f"cannot be read: {error.strerror or error}; expected a file that we may read"
            ) from error
    artifact = loads(data, max_bytes=LARGEST)
    require_numbers(artifact)
    policy = from_artifact(artifact)
    require_answers(policy)
    return _made(name, policy, source.called)


def _made(name: str, policy: Policy, called: str) -> _Loaded:
    """Return a policy that may decide, with what tells it from others."""
    artifact = getattr(policy, "artifact", None)
    in_use = PolicyInUse(name)
    if isinstance(artifact, Artifact):
        in_use = PolicyInUse(name, artifact.digest, str(artifact.manifest["observation_schema"]))
    return _Loaded(policy, replace(in_use, tenure=_mode_of(policy)), called, {})


def _mode_of(policy: Policy) -> str:
    """Return the mode of tenure that a policy is in, "" for none."""
    return (ADVISORY if policy.advisory else ON) if isinstance(policy, Tenured) else ""


def _passed_over(called: str, why: str) -> Note:
    return Note("PolicyPassedOver", f"{called} is passed over: {why}")


def _refused(message: str) -> PolicyRefused:
    return PolicyRefused(Note("PolicyRefused", message))
