"""Schemas of the Prometheus Operator's kinds as the chart uses them; Kubernetes itself has none."""

TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
DURATION = {"type": "string", "pattern": r"^(0|([0-9]+(ms|s|m|h|d|w|y))+)$"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}


def strict(properties, *required):
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


def kind(name, spec):
    metadata = strict({"name": NAME, "namespace": NAME, "labels": TEXTS, "annotations": TEXTS}, "name")
    version = {"const": "monitoring.coreos.com/v1"}
    return strict({"apiVersion": version, "kind": {"const": name}, "metadata": metadata, "spec": spec}, "spec", "metadata")


RELABELING = strict(
    {
        "sourceLabels": listed(TEXT),
        "targetLabel": TEXT,
        "regex": TEXT,
        "replacement": TEXT,
        "separator": TEXT,
        "action": {"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep", "hashmod", "lowercase", "uppercase"]},
    }
)
ENDPOINT = strict(
    {
        "port": TEXT,
        "path": TEXT,
        "scheme": {"enum": ["http", "https"]},
        "interval": DURATION,
        "scrapeTimeout": DURATION,
        "relabelings": listed(RELABELING),
        "metricRelabelings": listed(RELABELING),
    },
    "port",
)
MONITOR = strict(
    {
        "jobLabel": TEXT,
        "selector": strict({"matchLabels": TEXTS}, "matchLabels"),
        "namespaceSelector": strict({"matchNames": listed(NAME)}, "matchNames"),
        "endpoints": listed(ENDPOINT),
    },
    "selector",
    "endpoints",
)
ALERT = strict(
    {"alert": TEXT, "expr": TEXT, "for": DURATION, "keep_firing_for": DURATION, "labels": TEXTS, "annotations": TEXTS},
    "alert",
    "expr",
)
RECORD = strict({"record": TEXT, "expr": TEXT, "labels": TEXTS}, "record", "expr")
GROUP = strict(
    {"name": TEXT, "interval": DURATION, "rules": listed({"oneOf": [ALERT, RECORD]})},
    "name",
    "rules",
)

SCHEMAS = {
    "ServiceMonitor": kind("ServiceMonitor", MONITOR),
    "PrometheusRule": kind("PrometheusRule", strict({"groups": listed(GROUP)}, "groups")),
}
