"""The example policies of this repository as values of the chart, as JSON on stdout; argument: key to put them below.

Without an argument they lie at the top, as charts/cedargate wants them; `cedargate` is for a chart that uses the library.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def files():
    found = [path for top in ("policies", "schemas") for path in sorted((ROOT / top).rglob("*")) if path.is_file()]
    # the JSON schemas beside the Cedar schemas are no part of a policy tree
    return {str(path.relative_to(ROOT)): path.read_text() for path in found if not path.name.endswith(".schema.json")}


values = {"policies": {"files": files()}}
for key in sys.argv[1:]:
    values = {key: values}
print(json.dumps(values))
