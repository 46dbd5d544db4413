"""Renders the chart and finds objects in the result."""

import json
import subprocess
from pathlib import Path

import helm_python
import yaml

from processes import gateway_binary

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "muster"
SETS = sorted(path.stem for path in (Path(__file__).parent / "values").glob("*.yaml"))
RELEASE = "live"
NAMESPACE = "realtime"

# Secrets that the value sets refer to: name, key, value.
EXISTING_SECRETS = {
    "realtime": {"jwt": "a-secret-for-tokens", "internal": "an-internal-token", "redis": "redis://127.0.0.1:6379"},
    "realtime-records": {"DATABASE_URL": "postgres://postgres@127.0.0.1/postgres"},
}


def values_of(name):
    return yaml.safe_load((Path(__file__).parent / "values" / f"{name}.yaml").read_text())


def merged(*layers):
    """Later layers win, and maps are merged, as Helm does with several files of values."""
    result = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


class _StrictLoader(yaml.SafeLoader):
    """A key given twice is a mistake of a template; YAML would use the last."""


def _mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"given twice: {sorted(twice)}, {node.start_mark}")
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def rendered(values, release=RELEASE, revision=1):
    """Every template's text by its name."""
    with helm_python.Chart.load(str(CHART)) as chart:
        return chart.render(values, name=release, namespace=NAMESPACE, revision=revision)


def manifests(values, release=RELEASE, revision=1):
    found = []
    for name, text in rendered(values, release, revision).items():
        if name.endswith(".yaml"):
            found += [document for document in yaml.load_all(text, _StrictLoader) if document is not None]
    return found


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def only(documents, kind):
    found = of_kind(documents, kind)
    if len(found) != 1:
        raise AssertionError(f"{len(found)} of kind {kind}")
    return found[0]


def pod_spec(documents):
    return only(documents, "Deployment")["spec"]["template"]["spec"]


def container(documents):
    (found,) = pod_spec(documents)["containers"]
    return found


def environment(documents):
    """The container's variables by name, as written."""
    return {variable["name"]: variable for variable in container(documents)["env"]}


def settings():
    """Every setting's environment name, and whether it is secret: as the gateway prints them."""
    shown = printed({}, check=True).splitlines()
    keys = [line.split(" = ")[0] for line in shown]
    # The value of a secret is never shown. Most settings cannot be "x", so this call fails.
    hidden = printed({key.upper(): "x" for key in keys}, check=False).splitlines()
    return {key.upper(): f"# {key} is set" in hidden for key in keys}


def printed(environment, check):
    """The effective settings as the gateway prints them, with only this environment."""
    command = [gateway_binary(), "print-config"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check).stdout


def schema():
    return json.loads((CHART / "values.schema.json").read_text())
