"""Makes values.schema.json from an annotated values.yaml, so that helm refuses a mistyped key.

A value's type is the type of its default. A comment directly above a key becomes its description; a line `# @schema ...` in
it adds what the default does not say: `object` (any mapping), `config` (cedargate.yaml), `probe`, `port`, `intOrString`,
`items: TYPE`, `additionalProperties: TYPE`, `enum: A, B`, `pattern: P`, `minimum: N`.
"""

import copy
import json

import yaml

TYPES = {
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:str": "string",
}

DEFINITIONS = {
    "policyConfigMap": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "Name of the ConfigMap."},
            "folder": {
                "type": "string",
                "description": "Folder in which every key becomes a file, such as `policies/customer` or `schemas`.",
            },
            "items": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Keys, and the path that each gets in the tree.",
            },
            "optional": {"type": "boolean", "description": "The pod starts without this ConfigMap."},
        },
    },
    "secret": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "Name of the Secret."},
            "path": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$", "description": "Folder below /etc/cedargate/secrets."},
            "items": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Keys, and the file that each becomes. Default: all keys.",
            },
        },
    },
    "probe": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "path": {"type": "string", "pattern": "^/", "description": "Path of an HTTP probe."},
            "grpc": {"type": "boolean", "description": "Ask the gRPC health service. Without `path` and `grpc`: a TCP connection."},
            "service": {"type": "string", "description": "The service that `grpc` asks about. Absent: the server as a whole."},
            "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "Default: app.port."},
            "scheme": {"enum": ["http", "https"]},
            "headers": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Headers of an HTTP probe, such as `Host: shop.example.com`.",
            },
            "timeout": {"type": "string", "description": "Time limit of the gate's question to the app, such as `1s`."},
            "settings": {"type": "object", "description": "Settings of Kubernetes, such as `periodSeconds`."},
        },
    },
}


def comment_above(lines, number):
    """The comment lines directly above a line: description, and the text of its `@schema` lines."""
    words, schema = [], []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        text = lines[number].lstrip().lstrip("#").strip()
        if text.startswith("@schema "):
            schema.insert(0, text.removeprefix("@schema "))
        else:
            words.insert(0, text)
    return " ".join(words).strip(), schema


def typed(name):
    return {"$ref": f"#/definitions/{name}"} if name in DEFINITIONS else {"type": name}


def annotate(schema, directives, place):
    """Adds the `@schema` lines of one key."""
    for directive in directives:
        name, _, rest = directive.partition(": ")
        if name == "object":
            schema = {"type": "object"}
        elif name == "config":
            schema = {"$ref": "#/definitions/config"}
        elif name == "probe":
            # a user may take away a probe of the chart with null
            schema = {"$ref": "#/definitions/probe"}
        elif name == "port":
            schema |= {"minimum": 1, "maximum": 65535}
        elif name == "intOrString":
            schema = {"type": ["integer", "string"]}
        elif name == "items":
            schema = {"type": "array", "items": typed(rest)}
        elif name == "additionalProperties":
            schema = {"type": "object", "additionalProperties": typed(rest)}
        elif name == "enum":
            schema = {"enum": rest.split(", ")}
        elif name == "pattern":
            schema["pattern"] = rest
        elif name == "minimum":
            schema["minimum"] = int(rest)
        else:
            raise ValueError(f"{place}: unknown `@schema {directive}`")
    return schema


def of_node(node, lines, path, rows):
    """The schema of one mapping. `rows` collects (key, default, description) of every leaf, for the docs."""
    properties, required = {}, []
    for key_node, value in node.value:
        key = key_node.value
        place = f"{path}.{key}" if path else key
        description, directives = comment_above(lines, key_node.start_mark.line)
        is_mapping = isinstance(value, yaml.MappingNode)
        if is_mapping and value.value and not directives:
            if description:
                rows.append((place, None, description))
            schema = of_node(value, lines, place, rows)
        else:
            if isinstance(value, yaml.ScalarNode):
                schema = {"type": TYPES[value.tag]}
            elif directives:
                schema = {}
            else:
                raise ValueError(f"{place}: an empty mapping or a list needs `@schema`")
            schema = annotate(schema, directives, place)
            if not description:
                raise ValueError(f"{place}: say what it is in a comment above it")
            rows.append((place, yaml.safe_load(yaml.serialize(value)), description))
        if description:
            schema = {"description": description, **schema}
        properties[key] = schema
        if directives not in (["probe"], ["config"]):
            required.append(key)
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def of_config(config_schema):
    """cedargate.yaml as the schema of `config`: nothing is required, because the chart fills in what it needs itself."""
    schema = copy.deepcopy(config_schema)

    def strip(value):
        if isinstance(value, list):
            return [strip(item) for item in value]
        if not isinstance(value, dict):
            return value
        dropped = ("default", "examples", "writeOnly", "format", "$schema", "title")
        kept = {key: item for key, item in value.items() if key not in dropped and not key.startswith("x-")}
        if isinstance(kept.get("properties"), dict):
            kept["properties"] = {key: strip(item) for key, item in value["properties"].items()}
        if isinstance(kept.get("$ref"), str):
            kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/definitions/config.")
        return {key: item if key == "properties" else strip(item) for key, item in kept.items()}

    definitions = {f"config.{name}": strip(item) for name, item in schema.pop("$defs").items()}
    config = strip(schema)
    config.pop("required")
    config["properties"]["upstream"].pop("required")
    return {"config": config, **definitions}


def make(values_text, config_schema, extra):
    """The schema of a chart's values, and the rows of its table. `extra`: properties that helm itself adds."""
    rows = []
    schema = of_node(yaml.compose(values_text), values_text.splitlines(), "", rows)
    schema["properties"] |= {name: {"type": "object"} for name in extra}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "values.yaml"}
    definitions = {**DEFINITIONS, **of_config(config_schema)}
    return json.dumps({**head, **schema, "definitions": definitions}, indent=1, ensure_ascii=False) + "\n", rows
