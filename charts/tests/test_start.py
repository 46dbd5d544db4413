"""The rendered deployment's command with its environment, run on this machine."""

import base64
import os
import re
import subprocess
import unittest
from pathlib import Path

from processes import DEADLINE, Process, directory, free_port, gateway_binary, postgres, redis, status
from rendering import EXISTING_SECRETS, SETS, container, manifests, merged, of_kind, only, pod_spec, values_of


class Pod:
    """The deployment's pod as Kubernetes would start it: with its secrets, its volumes (in a directory of the test) and
    the address 127.0.0.1. Its ports are replaced by free ones."""

    def __init__(self, test, documents, secrets=None):
        self.documents = documents
        self.secrets = dict(EXISTING_SECRETS if secrets is None else secrets)
        for secret in of_kind(documents, "Secret"):
            self.secrets[secret["metadata"]["name"]] = {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}
        self.root = directory(test)
        self.mounts = self.mounted()
        named = {port["name"]: port["containerPort"] for port in container(documents)["ports"]}
        self.ports = {name: free_port() for name in named}
        self.replaced = {str(number): str(self.ports[name]) for name, number in named.items()}
        (path,) = container(documents)["command"]
        assert Path(path).name == "gateway", path
        self.command = [gateway_binary(), *container(documents)["args"]]
        self.environment = self.variables(container(documents))

    def mounted(self):
        volumes = {volume["name"]: volume for volume in pod_spec(self.documents).get("volumes", [])}
        places = {}
        for mount in container(self.documents).get("volumeMounts", []):
            place = Path(self.root, mount["name"])
            place.mkdir()
            places[mount["mountPath"]] = str(place)
            secret = volumes[mount["name"]].get("secret", {})
            for item in secret.get("items", []):
                (place / item["path"]).write_text(self.secrets[secret["secretName"]][item["key"]])
        return places

    def variables(self, of):
        found = {}
        for variable in of["env"]:
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                assert source["fieldRef"] == {"fieldPath": "status.podIP"}, source
                value = "127.0.0.1"
            elif "secretKeyRef" in source:
                value = self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
            else:
                value = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], variable["value"])
                value = re.sub(r":(\d+)$", lambda port: ":" + self.replaced.get(port[1], port[1]), value)
            for path, place in self.mounts.items():
                value = value.replace(path, place)
            found[variable["name"]] = value
        return found

    def start(self, test):
        node = Process(test, self.command, env=self.environment, cwd=self.root)
        node.until("/ready is 200", lambda: status(self.ports["http"], "/ready") == 200)
        return node

    def ask(self):
        """Runs the chart's own test against this pod."""
        (test,) = only(self.documents, "Pod")["spec"]["containers"]
        environment = self.variables(test)
        there = {"PUBLIC_HOST": "127.0.0.1", "PUBLIC_PORT": str(self.ports["http"])}
        there |= {"INTERNAL_HOST": "127.0.0.1", "INTERNAL_PORT": str(self.ports["internal"])}
        assert set(there) <= set(environment)
        # The gateway's own folder first, as in the image.
        there["PATH"] = f"{Path(gateway_binary()).parent}:{os.environ['PATH']}"
        environment |= there
        command = [*test["command"], *test["args"]]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False)


class Start(unittest.TestCase):
    def test_the_gateway_accepts_the_configuration_of_every_set(self):
        for name in SETS:
            with self.subTest(values=name):
                pod = Pod(self, manifests(values_of(name)))
                command = [gateway_binary(), "check-config"]
                result = subprocess.run(command, env=pod.environment, cwd=pod.root, capture_output=True, text=True, check=False)
                self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_node_alone_becomes_ready_and_stops_in_order(self):
        pod = Pod(self, manifests(values_of("embedded")))
        node = pod.start(self)
        for path in (probe["httpGet"] for key, probe in container(pod.documents).items() if key.endswith("Probe")):
            self.assertEqual(status(pod.ports[path["port"]], path["path"]), 200, path)
        self.assertTrue(Path(pod.mounts["/var/lib/muster"], "muster.db").is_file())
        self.assertEqual(os.listdir(pod.root), ["records"], "nothing is written beside the volumes")
        self.assertEqual(node.stop(), 0, node.output())

    def test_the_charts_own_test_passes_and_fails(self):
        pod = Pod(self, manifests(values_of("embedded")))
        node = pod.start(self)
        result = pod.ask()
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(result.stdout.count("ok: "), 5, result.stdout)
        # Both ports are the internal one, which serves what the public listener must not.
        pod.ports["http"] = pod.ports["internal"]
        self.assertEqual(pod.ask().returncode, 1)
        self.assertEqual(node.stop(), 0, node.output())
        self.assertEqual(pod.ask().returncode, 1)

    def test_nodes_of_a_cluster_become_ready(self):
        secrets = merged(EXISTING_SECRETS, {"realtime": {"redis": redis(self)}, "realtime-records": {"DATABASE_URL": postgres(self)}})
        documents = manifests(values_of("cluster"))
        pods = [Pod(self, documents, secrets) for _ in range(2)]
        nodes = [pod.start(self) for pod in pods]
        for pod, node in zip(pods, nodes):
            self.assertEqual(pod.ask().returncode, 0, node.output())
            headers = {"X-Internal-Request": "true", "Authorization": f"Bearer {pod.environment['INTERNAL_TOKEN']}"}
            self.assertEqual(status(pod.ports["internal"], "/internal/rooms/any/count", headers), 200, node.output())
        for node in nodes:
            self.assertEqual(node.stop(), 0, node.output())


if __name__ == "__main__":
    unittest.main()
