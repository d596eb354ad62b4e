"""What `rlscaler convert` makes of objects, checked as `rlscaler validate` checks it."""

import json
from typing import Any

import yaml

from rlscaler.convert.converting import convert
from rlscaler.convert.draft import Options
from rlscaler.convert.page import page
from rlscaler.custom_resource import parse_resources, to_settings

Json = dict[str, Any]


def made(*objects: Json, **options: Any) -> list[Json]:
    """Return the resources that are made of objects, and checks them as `validate` does."""
    found = convert([("x", "---\n".join(yaml.safe_dump(each) for each in objects))], Options(**options))
    text = "---\n".join(page(each) for each in found.drafts)
    if found.drafts:
        for each in parse_resources(text, "made"):
            to_settings(each)
            assert each.spec.mode == "Shadow"
    return list(yaml.safe_load_all(text))


def only(*objects: Json, **options: Any) -> Any:
    (found,) = made(*objects, **options)
    return found["spec"]


def told(*objects: Json, **options: Any) -> list[str]:
    """Return what is said of the one autoscaler among the objects."""
    found = convert([("x", json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}))], Options(**options))
    (one,) = found.drafts
    return [one.summary, *one.notes]
