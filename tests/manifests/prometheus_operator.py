"""prometheus_operator.py FOLDER...: the Prometheus Operator's kinds in the rendered manifests are valid for the
operator's own definitions, as PyPI's cloudcoil-models-prometheus-operator holds them, and name no
field that those do not know.

Ends with 1 and a line for each that does not hold, or when it found none.
"""

import pathlib
import sys

import yaml
from cloudcoil.models.prometheus_operator import v1
from pydantic import ValidationError

failures = []
seen = 0
for file in (file for folder in sys.argv[1:] for file in sorted(pathlib.Path(folder).glob("*.yaml"))):
    for document in yaml.safe_load_all(file.read_text()):
        if not document or document["apiVersion"] != "monitoring.coreos.com/v1":
            continue
        seen += 1
        where = f"{file}: {document['kind']} {document['metadata']['name']}"
        try:
            valid = getattr(v1, document["kind"]).model_validate(document)
        except ValidationError as error:
            failures.append(f"{where}: {error}")
            continue
        # The models pass over a field that they do not know.
        if valid.model_dump(mode="json", by_alias=True, exclude_unset=True) != document:
            failures.append(f"{where}: a field is unknown")

if not seen:
    failures.append("no PodMonitor and no PrometheusRule found")
print("\n".join(failures) or f"{seen} of the Prometheus Operator's kinds are valid")
sys.exit(bool(failures))
