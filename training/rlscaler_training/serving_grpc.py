"""Questions and answers of a server of policies over gRPC: the messages of decisions.proto, and what is read of them.

The messages are made when this module is imported, from the fields below: two of them need no compiler and no file that
one made. A test compares the fields with decisions.proto, which is for callers in other languages. Needs protobuf and
grpc, which come with Ray Serve. Nothing here is Ray.
"""

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from rlscaler import served
from rlscaler.observation import SCHEMA
from rlscaler.served import FEATURES, NUMBERS, Answers, Rows, WireError
from rlscaler_training.serving import Shelved
from rlscaler_training.serving_http import HttpError, Limits, require_schema

PACKAGE, SERVICE, METHOD = "rlscaler.v1", "Decisions", "Decide"
FULL = f"/{PACKAGE}.{SERVICE}/{METHOD}"
"""What a caller calls."""
FIELDS: dict[str, dict[str, str]] = {
    "Question": {"schema": "string", "policy": "string", "digest": "string", "features": "bytes", "numbers": "bytes"},
    "Answer": {
        "policy": "string",
        "digest": "string",
        "schema": "string",
        "replicas": "repeated double",
        "patience": "repeated double",
        "trained": "repeated bool",
    },
}
"""Messages, and the types of their fields, which are numbered from 1 in their order."""
CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    503: "RESOURCE_EXHAUSTED",
}
"""What a status of HTTP is called here; any other is INTERNAL."""


def _described() -> descriptor_pb2.FileDescriptorProto:
    made = descriptor_pb2.FileDescriptorProto(
        name="rlscaler_training/decisions.proto", package=PACKAGE, syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        added = made.message_type.add(name=message)
        for number, (name, kind) in enumerate(fields.items(), start=1):
            label = kinds.LABEL_REPEATED if kind.startswith("repeated ") else kinds.LABEL_OPTIONAL
            of = kinds.Type.Value(f"TYPE_{kind.removeprefix('repeated ').upper()}")
            added.field.add(name=name, number=number, label=label, type=of)
    service = made.service.add(name=SERVICE)
    service.method.add(name=METHOD, input_type=f".{PACKAGE}.Question", output_type=f".{PACKAGE}.Answer")
    return made


_FILE = descriptor_pool.Default().AddSerializedFile(_described().SerializeToString())
Question: Any = message_factory.GetMessageClass(_FILE.message_types_by_name["Question"])
Answer: Any = message_factory.GetMessageClass(_FILE.message_types_by_name["Answer"])
for _each in (Question, Answer):
    _each.__module__ = __name__  # they are pickled on their way to a replica, by this name


def add_to_server(servicer: Any, server: Any) -> None:
    """Have a gRPC server answer by the servicer's `Decide`, as code that a compiler makes would."""
    import grpc

    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Decide, request_deserializer=Question.FromString, response_serializer=Answer.SerializeToString
    )
    service = f"{PACKAGE}.{SERVICE}"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {METHOD: handler}),))


def asking(rows: Rows, policy: str = "", digest: str = "") -> Any:
    """Return the question about rows."""
    features, numbers = np.ascontiguousarray(rows.features, "<f4"), np.ascontiguousarray(rows.numbers, "<f8")
    return Question(schema=SCHEMA, policy=policy, digest=digest, features=features.tobytes(), numbers=numbers.tobytes())


def rows_of(question: Any, limits: Limits) -> Rows:
    """Return the rows of a question. Raises HttpError."""
    size = len(question.features) + len(question.numbers)
    if size > limits.bytes:
        raise HttpError(413, f"features and numbers have {size} bytes; expected at most {limits.bytes}: ask in several "
                        "requests")  # fmt: skip
    try:
        require_schema(question.schema or SCHEMA)
        parts = []
        for name, columns, kind in (("features", FEATURES, "<f4"), ("numbers", NUMBERS, "<f8")):
            data = getattr(question, name)
            row = len(columns) * np.dtype(kind).itemsize
            if len(data) % row:
                raise WireError(f"{name} has {len(data)} bytes; expected rows of {row}: {len(columns)} columns, {kind}")
            parts.append(np.frombuffer(data, kind).reshape(-1, len(columns)))
        rows = served.require_rows(Rows(parts[0].astype(np.float32), parts[1].astype(np.float64)))
    except WireError as error:
        raise HttpError(400, str(error)) from error
    if len(rows) > limits.rows:
        raise HttpError(413, f"there are {len(rows)} rows; expected at most {limits.rows}: ask in several requests")
    return rows


def answering(answers: Answers, shelved: Shelved) -> Any:
    """Return the answer."""
    return Answer(policy=shelved.name, digest=shelved.digest, schema=shelved.schema, replicas=answers.replicas.tolist(),
                  patience=answers.patience.tolist(), trained=answers.trained.tolist())  # fmt: skip


def refusing(error: HttpError, context: Any) -> Any:
    """Return an answer that is none: the context says why, as any gRPC server says it."""
    import grpc

    context.set_code(getattr(grpc.StatusCode, CODES.get(error.status, "INTERNAL")))
    context.set_details(error.message[:1000])
    return Answer()
