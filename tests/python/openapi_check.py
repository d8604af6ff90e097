#!/usr/bin/env python3
"""Checks an OpenAPI document with an independent validator, and real answers against the schemas of the document.

Reads {"document": …, "answers": [{"path", "method", "status", "type", "body"}], "events": […]} from standard input. No object
may have a property that its schema does not name. Exits with 1 and says what is wrong.
"""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

given = json.load(sys.stdin)
document = given["document"]
validate(document)


def close(schema):
    """Refuses properties that a schema does not name, where it does not say otherwise."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)


close(document["components"]["schemas"])
registry = Registry().with_resource("urn:api", Resource(document, DRAFT202012))
faults = []


def resolved(part):
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/").split("/")
        part = document
        for word in name:
            part = part[word]
    return part


def absolute(schema):
    """References of a schema, from outside the document."""
    if isinstance(schema, dict):
        return {k: "urn:api" + v if k == "$ref" else absolute(v) for k, v in schema.items()}
    if isinstance(schema, list):
        return [absolute(value) for value in schema]
    return schema


def check(what, schema, value):
    validator = Draft202012Validator(absolute(schema), registry=registry)
    for error in validator.iter_errors(value):
        faults.append(f"{what}: at {error.json_path}: {error.message}")


for answer in given["answers"]:
    what = f"{answer['method']} {answer['path']} {answer['status']}"
    operation = document["paths"].get(answer["path"], {}).get(answer["method"].lower())
    response = operation and operation["responses"].get(str(answer["status"]))
    if not response:
        faults.append(f"{what}: the document has no such response")
        continue
    content = resolved(response).get("content", {})
    kind = answer["type"].split(";")[0]
    if kind not in content:
        faults.append(f"{what}: it is {kind}, and the document says {list(content)}")
    elif kind == "application/json":
        check(what, content[kind]["schema"], json.loads(answer["body"]))
for event in given["events"]:
    check(f"event {event.get('kind')}", {"$ref": "#/components/schemas/Event"}, event)
if faults:
    print("\n".join(faults), file=sys.stderr)
    sys.exit(1)
print(f"{len(given['answers'])} answers and {len(given['events'])} events are as the document says")
