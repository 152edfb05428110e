"""The snippet for Python in a program that answers questions."""

import json
import sys

from cedargate import CedargateError, Entity
from gate import caller, may, may_each


def entity(described: dict[str, object]) -> Entity:
    """Return the entity; its attributes are Cedar's JSON already."""
    return Entity(**described)  # type: ignore[arg-type]


for line in sys.stdin:
    question = json.loads(line)
    try:
        who = caller(question["assertion"])
        if question["op"] == "caller":
            answer: dict[str, object] = {"subject": who.subject}
        elif question["op"] == "may":
            answer = {"allowed": may(who, question["action"], entity(question["resource"]))}
        else:
            resources = [entity(described) for described in question["resources"]]
            answer = {"allowed": may_each(who, question["action"], resources)}
    except CedargateError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)  # noqa: T201
