"""What a run measures, as TensorBoard reads it. Written at once and in this thread.

The writers of TensorBoard and torch write from a thread of their own, some minutes later: what a killed run measured
last is lost, and a full disk is told by a traceback of that thread.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

# Made when they are imported, so no type checker finds them.
_events: Any = event_pb2
_summaries: Any = summary_pb2
Event, SessionLog, Summary = _events.Event, _events.SessionLog, _summaries.Summary


class Events:
    """A file of events in `folder`, which is made. Raises OSError where it cannot be written."""

    def __init__(self, folder: Path, begin: int) -> None:
        """Begin a file; begin: events of this step and later ones, of a process before this one, no longer count."""
        folder.mkdir(exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        restarted = SessionLog(status=SessionLog.START)
        self._write(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=begin, session_log=restarted),
        )

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write down what was measured after so many steps."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, *events: Any) -> None:
        with self.path.open("ab") as stream:
            for event in events:
                RecordWriter(stream).write(event.SerializeToString())
