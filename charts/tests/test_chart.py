"""The chart: lint, every manifest against Kubernetes' schemas, and rules for all values."""

import functools
import json
import re
import unittest

import helm_python
import jsonschema
import kubernetes_validate
import yaml

from operator_schemas import SCHEMAS
from rendering import (
    CHART, EXISTING_SECRETS, NAMESPACE, RELEASE, ROOT, SETS, container, environment, manifests, merged, of_kind, only,
    pod_spec, rendered, schema, settings, values_of,
)

KUBERNETES = "1.30"
# Variables of the container that are not settings: for ADVERTISE_URL, and of the TLS library.
NOT_SETTINGS = {"POD_IP", "SSL_CERT_FILE"}
# Settings with their own value in the chart, or replaced by one.
OWN = {
    "LISTEN", "PORT", "INTERNAL_LISTEN", "ADVERTISE_URL", "DRAIN", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWKS_URL",
    "JWT_ISSUER", "JWT_AUDIENCE", "JWT_USER_CLAIM", "INTERNAL_TOKEN", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT",
    "REDIS_USERNAME", "REDIS_PASSWORD", "PUSH_WEBHOOK_URL", "PUSH_WEBHOOK_SECRET",
}
# Seconds that a node may take after its drain: DRAIN_LAST_GETS_MS and LAST_WORDS_MS of shared/src/limits.rs.
AFTER_DRAIN = 6

EMBEDDED = values_of("embedded")
CLUSTER = values_of("cluster")
KEY = {"auth": {"jwtSecret": {"value": "x"}}, "settings": {"MOUNTS": "chat=/"}}
TOKEN = {"auth": {"internalToken": {"value": "x"}}}
REDIS = {"redis": {"url": "redis://redis"}}


def each_set(test):
    @functools.wraps(test)
    def run(self):
        for name in SETS:
            with self.subTest(values=name):
                test(self, name, manifests(values_of(name)))

    return run


class EverySet(unittest.TestCase):
    """Rules for each set of values."""

    def test_lint_finds_nothing(self):
        for name in SETS:
            report = helm_python.lint(str(CHART), values_of(name), strict=True, kube_version=f"v{KUBERNETES}.0")
            found = [message for message in report["messages"] if message["severity"] > 1]
            self.assertEqual((report["total_charts_linted"], found, report["errors"]), (1, [], []), name)

    @each_set
    def test_manifests_are_valid(self, _, documents):
        for document in documents:
            with self.subTest(kind=document["kind"], name=document["metadata"]["name"]):
                if document["kind"] in SCHEMAS:
                    jsonschema.Draft202012Validator(SCHEMAS[document["kind"]]).validate(document)
                else:
                    kubernetes_validate.validate(document, KUBERNETES, strict=True)

    @each_set
    def test_objects_are_the_expected_ones(self, name, documents):
        always = ["Deployment", "NetworkPolicy", "Pod", "Service", "Service", "ServiceAccount"]
        expected = {
            "embedded": [*always, "Secret"],
            "cluster": [*always, "Ingress", "PodDisruptionBudget"],
            "everything": [
                *always, "Secret", "Ingress", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ServiceMonitor",
                "PrometheusRule", "ConfigMap",
            ],
        }
        self.assertEqual(sorted(expected), SETS)
        self.assertEqual(sorted(document["kind"] for document in documents), sorted(expected[name]))

    @each_set
    def test_objects_have_names_labels_and_a_namespace(self, _, documents):
        names = [(document["kind"], document["metadata"]["name"]) for document in documents]
        self.assertEqual(len(names), len(set(names)))
        for document in documents:
            self.assertEqual(document["metadata"]["namespace"], NAMESPACE)
            labels = document["metadata"]["labels"]
            self.assertEqual(labels["app.kubernetes.io/instance"], RELEASE)
            self.assertEqual(labels["app.kubernetes.io/managed-by"], "Helm")

    @each_set
    def test_the_internal_service_is_internal(self, _, documents):
        services = {service["metadata"]["name"]: service for service in of_kind(documents, "Service")}
        (internal,) = [name for name in services if name.endswith("-internal")]
        (public,) = set(services) - {internal}
        self.assertEqual(services[internal]["spec"]["type"], "ClusterIP")
        self.assertEqual([port["targetPort"] for port in services[internal]["spec"]["ports"]], ["internal"])
        self.assertEqual([port["targetPort"] for port in services[public]["spec"]["ports"]], ["http"])
        for ingress in of_kind(documents, "Ingress"):
            for rule in ingress["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    self.assertEqual(path["backend"]["service"], {"name": public, "port": {"name": "http"}})
            self.assertNotIn("defaultBackend", ingress["spec"])

    @each_set
    def test_nothing_is_sticky(self, _, documents):
        for document in [*of_kind(documents, "Ingress"), *of_kind(documents, "Service")]:
            annotations = document["metadata"].get("annotations", {})
            self.assertFalse([name for name in annotations if "affinity" in name or "sticky" in name])
        for service in of_kind(documents, "Service"):
            self.assertEqual(service["spec"]["sessionAffinity"], "None")

    @each_set
    def test_services_select_nodes_and_not_the_test(self, _, documents):
        deployment = only(documents, "Deployment")["spec"]
        node = deployment["template"]["metadata"]["labels"].items()
        test = only(documents, "Pod")["metadata"]["labels"].items()
        ports = {port["name"] for port in container(documents)["ports"]}
        selectors = [deployment["selector"]["matchLabels"]]
        selectors += [budget["spec"]["selector"]["matchLabels"] for budget in of_kind(documents, "PodDisruptionBudget")]
        for service in of_kind(documents, "Service"):
            selectors.append(service["spec"]["selector"])
            self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, ports)
        for selector in selectors:
            self.assertTrue(selector.items() <= node)
            self.assertFalse(selector.items() <= test)

    @each_set
    def test_containers_have_no_rights(self, _, documents):
        for spec in (pod_spec(documents), only(documents, "Pod")["spec"]):
            self.assertIs(spec["automountServiceAccountToken"], False)
            self.assertIs(spec["enableServiceLinks"], False)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for one in spec["containers"]:
                context = one["securityContext"]
                self.assertIs(context["runAsNonRoot"], True)
                self.assertIs(context["readOnlyRootFilesystem"], True)
                self.assertIs(context["allowPrivilegeEscalation"], False)
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                self.assertIn("memory", one["resources"]["limits"])
                self.assertIn("cpu", one["resources"]["requests"])
        self.assertIs(only(documents, "ServiceAccount")["automountServiceAccountToken"], False)

    @each_set
    def test_variables_are_settings(self, _, documents):
        known = settings()
        secret = {name: known[name] for name in ("JWT_SECRET", "INTERNAL_TOKEN", "PUSH_WEBHOOK_SECRET", "PING_INTERVAL")}
        expected = {"JWT_SECRET": True, "INTERNAL_TOKEN": True, "PUSH_WEBHOOK_SECRET": True, "PING_INTERVAL": False}
        self.assertEqual(secret, expected)
        names = [variable["name"] for variable in container(documents)["env"]]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(set(names), set(known) | NOT_SETTINGS)
        for name, variable in environment(documents).items():
            if known.get(name) and not variable.get("value", "").startswith("sqlite:"):
                self.assertNotIn("value", variable, name)

    def test_the_test_pod_signs_its_token_by_settings_of_extra_variables(self):
        given = {"JWT_ISSUER": "https://x", "JWT_AUDIENCE": "y", "JWT_USER_CLAIM": "z", "MOUNTS": "relay=/r"}
        extra = [{"name": name, "value": value} for name, value in given.items()]
        extra.append({"name": "CONFIG", "value": "/on/a/volume.toml"})
        test = only(manifests(merged(EMBEDDED, {"extraEnv": extra})), "Pod")["spec"]["containers"][0]
        there = {variable["name"]: variable.get("value") for variable in test["env"]}
        self.assertLessEqual(given.items(), there.items())
        self.assertNotIn("CONFIG", there)

    @each_set
    def test_referenced_secrets_exist(self, _, documents):
        there = {secret["metadata"]["name"]: secret["data"] for secret in of_kind(documents, "Secret")}
        there |= EXISTING_SECRETS
        for name, variable in environment(documents).items():
            if "secretKeyRef" in variable.get("valueFrom", {}):
                reference = variable["valueFrom"]["secretKeyRef"]
                self.assertIn(reference["key"], there[reference["name"]], name)
        for volume in pod_spec(documents).get("volumes", []):
            for item in volume.get("secret", {}).get("items", []):
                self.assertIn(item["key"], there[volume["secret"]["secretName"]])

    @each_set
    def test_only_sqlite_writes(self, name, documents):
        writable = [mount["name"] for mount in container(documents).get("volumeMounts", []) if not mount.get("readOnly")]
        self.assertEqual(writable, ["records"] if name == "embedded" else [])
        kinds = {key for volume in pod_spec(documents).get("volumes", []) for key in volume if key != "name"}
        self.assertEqual("emptyDir" in kinds, name == "embedded")

    @each_set
    def test_probes_ask_the_health_routes(self, _, documents):
        asked = {probe: container(documents)[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
        self.assertEqual(asked["startup"], {"path": "/live", "port": "internal"})
        self.assertEqual(asked["liveness"], {"path": "/live", "port": "internal"})
        self.assertEqual(asked["readiness"], {"path": "/ready", "port": "http"})

    @each_set
    def test_only_known_peers_reach_the_internal_listener(self, name, documents):
        policy = only(documents, "NetworkPolicy")["spec"]
        public, internal = policy["ingress"]
        self.assertEqual((public["ports"][0]["port"], internal["ports"][0]["port"]), ("http", "internal"))
        own, monitoring, *peers = internal["from"]
        self.assertTrue(own["podSelector"]["matchLabels"].items() <= only(documents, "Pod")["metadata"]["labels"].items())
        self.assertEqual(own["podSelector"]["matchLabels"]["app.kubernetes.io/instance"], RELEASE)
        self.assertIn("kubernetes.io/metadata.name", monitoring["namespaceSelector"]["matchLabels"])
        self.assertEqual(peers, values_of(name).get("networkPolicy", {}).get("internalFrom", []))
        self.assertNotIn({}, internal["from"])

    def test_the_public_listener_can_be_kept_to_an_ingress(self):
        for name, known in [("cluster", None), ("everything", values_of("everything")["networkPolicy"]["publicFrom"])]:
            documents = manifests(values_of(name))
            public, internal = only(documents, "NetworkPolicy")["spec"]["ingress"]
            self.assertEqual(public.get("from"), known and [internal["from"][0], *known])

    @each_set
    def test_the_image_and_the_command_are_the_dockerfiles(self, _, documents):
        dockerfile = (ROOT / "Dockerfile").read_text()
        (command,) = container(documents)["command"]
        self.assertIn(f'ENTRYPOINT ["{command}"]', dockerfile)
        user = pod_spec(documents)["securityContext"]["runAsUser"]
        self.assertIn(f"USER {user}\n", dockerfile)
        self.assertEqual(only(documents, "Pod")["spec"]["containers"][0]["image"], container(documents)["image"])


class Values(unittest.TestCase):
    """The effects of single values."""

    def test_the_grace_is_longer_than_the_drain(self):
        for drain, seconds in [("30s", 30), ("2m", 120), ("1h", 3600), ("250ms", 1), ("1500ms", 2), ("0", 0)]:
            documents = manifests(merged(EMBEDDED, {"drain": {"duration": drain, "preStopSeconds": 7, "marginSeconds": 11}}))
            self.assertEqual(environment(documents)["DRAIN"]["value"], drain)
            self.assertEqual(container(documents)["lifecycle"]["preStop"], {"sleep": {"seconds": 7}})
            self.assertEqual(pod_spec(documents)["terminationGracePeriodSeconds"], seconds + 7 + 11, drain)
        margin = schema()["properties"]["drain"]["properties"]["marginSeconds"]["minimum"]
        self.assertGreater(margin, AFTER_DRAIN)
        limits = (ROOT / "shared/src/limits.rs").read_text()
        self.assertIn("DRAIN_LAST_GETS_MS: u64 = 1_000;", limits)
        self.assertIn("LAST_WORDS_MS: u64 = 5_000;", limits)

    def test_others_reach_a_node_by_its_pods_address(self):
        self.assertNotIn("ADVERTISE_URL", environment(manifests(EMBEDDED)))
        variables = environment(manifests(CLUSTER))
        self.assertEqual(variables["POD_IP"]["valueFrom"], {"fieldRef": {"fieldPath": "status.podIP"}})
        self.assertEqual(variables["ADVERTISE_URL"]["value"], "http://$(POD_IP):9090")
        # A variable can only use earlier ones.
        self.assertLess(list(variables).index("POD_IP"), list(variables).index("ADVERTISE_URL"))
        six = environment(manifests(merged(CLUSTER, {"ipFamily": "IPv6"})))
        self.assertEqual(six["ADVERTISE_URL"]["value"], "http://[$(POD_IP)]:9090")
        self.assertEqual(six["LISTEN"]["value"], "[::]:8080")

    def test_numbers_are_written_whole(self):
        variables = environment(manifests(merged(EMBEDDED, {"settings": {"MAX_PAYLOAD": 100000000, "OUTBOX_BYTES": "200000000"}})))
        self.assertEqual(variables["MAX_PAYLOAD"]["value"], "100000000")
        self.assertEqual(variables["OUTBOX_BYTES"]["value"], "200000000")

    def test_changed_secrets_and_settings_restart_the_pods(self):
        def annotations(values):
            return only(manifests(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]

        first = annotations(EMBEDDED)
        self.assertEqual(first, annotations(EMBEDDED))
        self.assertNotEqual(first["checksum/secrets"], annotations(merged(EMBEDDED, KEY))["checksum/secrets"])
        versioned = annotations(merged(EMBEDDED, {"secretsVersion": "2026-11-29"}))
        self.assertNotEqual(first["checksum/secrets"], versioned["checksum/secrets"])
        other = annotations(merged(CLUSTER, {"auth": {"jwtSecret": {"existingSecret": "another"}}}))
        self.assertNotEqual(annotations(CLUSTER)["checksum/secrets"], other["checksum/secrets"])
        changed = annotations(merged(EMBEDDED, {"settings": {"LEASE": "9s"}}))
        self.assertNotEqual(first["checksum/settings"], changed["checksum/settings"])

    def test_only_the_secret_depends_on_the_value_of_a_secret(self):
        def secrets(text):
            return merged(values_of("everything"), {
                "auth": {"internalToken": {"value": f"token-{text}"}},
                "redis": {"url": f"redis://user:{text}@redis"},
                "database": {"url": f"postgres://muster:{text}@records/muster"},
                "push": {"webhookSecret": {"value": f"hook-{text}"}},
            })

        first, second = (
            [document for document in manifests(secrets(text)) if document["kind"] != "Secret"] for text in ("one", "two")
        )
        self.assertEqual(first, second)
        revisions = [
            only(manifests(secrets("one"), revision=revision), "Deployment")["spec"]["template"]["metadata"]["annotations"]
            for revision in (1, 2)
        ]
        self.assertNotEqual(*revisions, "an upgrade replaces the pods, since the secret may be another")

    def test_nodes_that_know_each_other_are_replaced_one_by_one(self):
        self.assertEqual(only(manifests(EMBEDDED), "Deployment")["spec"]["strategy"], {"type": "Recreate"})
        strategy = only(manifests(CLUSTER), "Deployment")["spec"]["strategy"]
        self.assertEqual(strategy["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})

    def test_an_autoscaler_has_the_replicas_for_itself(self):
        self.assertEqual(only(manifests(CLUSTER), "Deployment")["spec"]["replicas"], 3)
        documents = manifests(merged(CLUSTER, {"autoscaling": {"enabled": True}}))
        self.assertNotIn("replicas", only(documents, "Deployment")["spec"])
        target = only(documents, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
        self.assertEqual(target, only(documents, "Deployment")["metadata"]["name"])

    def test_nodes_are_spread(self):
        constraints = pod_spec(manifests(CLUSTER))["topologySpreadConstraints"]
        self.assertEqual([c["topologyKey"] for c in constraints], ["topology.kubernetes.io/zone", "kubernetes.io/hostname"])
        for constraint in constraints:
            self.assertEqual(constraint["labelSelector"], only(manifests(CLUSTER), "Deployment")["spec"]["selector"])

    def test_the_monitor_finds_the_internal_service_alone(self):
        documents = manifests(values_of("everything"))
        monitor = only(documents, "ServiceMonitor")["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        found = [s for s in of_kind(documents, "Service") if wanted <= s["metadata"]["labels"].items()]
        self.assertEqual(len(found), 1)
        self.assertTrue(found[0]["metadata"]["name"].endswith("-internal"))
        self.assertEqual(monitor["endpoints"][0]["port"], found[0]["spec"]["ports"][0]["name"])
        # Two releases are separate jobs in alerts and in the dashboard.
        self.assertEqual(found[0]["metadata"]["labels"][monitor["jobLabel"]], RELEASE)

    def test_the_values_of_the_book_are_rendered(self):
        book = ROOT / "gateway/docs"
        found = 0
        for page in ["operate/kubernetes.md", "start/proxies.md"]:
            for block in re.findall(r"^```yaml\n(.*?)^```", (book / page).read_text(), re.MULTILINE | re.DOTALL):
                values = yaml.safe_load(block)
                if "ingress" not in values:
                    continue
                found += 1
                ingress = only(manifests(values if "auth" in values else merged(KEY, values)), "Ingress")["spec"]
                self.assertEqual(ingress["ingressClassName"], "nginx")
                self.assertEqual(ingress["rules"][0]["host"], "realtime.example.org")
        self.assertEqual(found, 2)

    def test_runbooks_are_where_the_docs_are(self):
        values = values_of("everything")
        values["metrics"]["prometheusRule"]["docsUrl"] = "https://realtime.example.org"
        rules = only(manifests(values), "PrometheusRule")["spec"]
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            expected = f"https://realtime.example.org/docs/operate/alerts/{rule['alert']}"
            self.assertEqual(rule["annotations"]["runbook_url"], expected)

    def test_rules_and_dashboard_are_the_files(self):
        documents = manifests(values_of("everything"))
        rules = yaml.safe_load((CHART / "files/rules.yaml").read_text())
        self.assertTrue(rules["groups"])
        self.assertEqual(only(documents, "PrometheusRule")["spec"], rules)
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            self.assertEqual(rule["annotations"]["runbook_url"], f"/docs/operate/alerts/{rule['alert']}")
        dashboard = json.loads((CHART / "files/dashboard.json").read_text())
        self.assertTrue(dashboard["panels"])
        self.assertEqual(json.loads(only(documents, "ConfigMap")["data"]["muster.json"]), dashboard)
        # Helm keeps a release with its files in a Secret of 1 MiB.
        self.assertLess(len((CHART / "files/dashboard.json").read_bytes()), 300_000)

    def test_a_node_alone_gets_an_internal_token(self):
        (first, second) = (only(manifests({}), "Secret")["data"]["INTERNAL_TOKEN"] for _ in range(2))
        self.assertNotEqual(first, second)
        self.assertEqual(of_kind(manifests(CLUSTER), "Secret"), [])

    def test_records_can_be_kept(self):
        volumes = pod_spec(manifests(merged(EMBEDDED, {"database": {"sqlite": {"existingClaim": "kept"}}})))["volumes"]
        self.assertEqual(volumes, [{"name": "records", "persistentVolumeClaim": {"claimName": "kept"}}])

    def test_long_names_fit(self):
        long = {"nameOverride": "a-name-of-sixty-three-characters-that-is-longer-than-any-needs"}
        for document in manifests(merged(CLUSTER, long), "r" * 53):
            self.assertLessEqual(len(document["metadata"]["name"]), 63)
            self.assertRegex(document["metadata"]["name"], r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
            for label in document["metadata"]["labels"].values():
                self.assertLessEqual(len(label), 63)

    def test_notes_warn_of_unsafe_defaults(self):
        alone = rendered({})["muster/templates/NOTES.txt"]
        self.assertIn("No key for tokens is set", alone)
        self.assertIn("Records end with the pod", alone)
        cluster = rendered(CLUSTER)["muster/templates/NOTES.txt"]
        self.assertIn("3 nodes on Redis, records in PostgreSQL", cluster)
        self.assertIn("https://realtime.example.org/", cluster)
        self.assertNotIn("No key", cluster)
        self.assertNotIn("Records end", cluster)
        self.assertNotIn("TRUSTED_PROXIES", cluster)
        untrusting = rendered(merged(CLUSTER, {"settings": {"TRUSTED_PROXIES": ""}}))["muster/templates/NOTES.txt"]
        self.assertIn("Set settings.TRUSTED_PROXIES to the network of the ingress' pods", untrusting)


class Refused(unittest.TestCase):
    """Values that must be refused, and the errors."""

    def refused(self, values, *words):
        with self.assertRaises(helm_python.HelmError) as caught:
            rendered(values)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_values_that_do_not_go_together(self):
        secret = {"value": "x", "existingSecret": "y"}
        for values, expected in [
            (merged(REDIS, TOKEN), "auth: with redis, give one of jwtSecret, jwtPublicKey and jwksUrl"),
            (merged(REDIS, KEY), "auth.internalToken: with redis"),
            (merged({"replicaCount": 2}, KEY, TOKEN), "replicaCount: 2 nodes need redis.url or redis.existingSecret"),
            (merged({"autoscaling": {"enabled": True}}, KEY, TOKEN), "autoscaling.maxReplicas: 10 nodes need redis"),
            (merged({"replicaCount": 2}, REDIS, KEY, TOKEN), "replicaCount: 2 nodes need database.url"),
            (merged(KEY, {"auth": {"jwksUrl": "https://x"}}), "auth: give only one of"),
            (merged(REDIS, TOKEN, {"auth": {"jwtSecret": {"value": "x"}}}), "redis: give database.url"),
            (merged(REDIS, KEY, TOKEN), "redis: give database.url"),
            ({"auth": {"jwtSecret": secret}}, "auth.jwtSecret: give either value or existingSecret"),
            ({"auth": {"internalToken": secret}}, "auth.internalToken: give either"),
            ({"redis": {"url": "redis://x", "existingSecret": "y"}}, "redis: give either url or existingSecret"),
            ({"ingress": {"enabled": True}}, "ingress.hosts: give at least one"),
            ({"ports": {"public": 9090}}, "ports: public and internal are the same"),
            ({"podDisruptionBudget": {"minAvailable": 1}}, "podDisruptionBudget: give exactly one"),
            ({"extraEnv": [{"name": "REDIS_URL", "value": "x"}]}, "extraEnv: REDIS_URL"),
            (merged(CLUSTER, {"autoscaling": {"enabled": True, "minReplicas": 11}}), "minReplicas is above maxReplicas"),
            (merged(CLUSTER, {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}}), "at least one target"),
        ]:
            with self.subTest(expected=expected):
                self.refused(values, expected)

    def test_values_that_the_schema_does_not_know(self):
        for values, path in [
            ({"replicas": 2}, "replicas"),
            ({"replicaCount": 0}, "replicaCount"),
            ({"replicaCount": "2"}, "replicaCount"),
            ({"settings": {"PING_INTERVALL": "25s"}}, "PING_INTERVALL"),
            ({"settings": {"PING_INTERVAL": "25 s"}}, "PING_INTERVAL"),
            ({"settings": {"PING_INTERVAL": "25"}}, "PING_INTERVAL"),
            ({"settings": {"SOS_AGE": "24"}}, "SOS_AGE"),
            ({"settings": {"SQLITE_WITH_REDIS": "yes"}}, "SQLITE_WITH_REDIS"),
            ({"settings": {"JWT_SECRET": "x"}}, "JWT_SECRET"),
            ({"settings": {"DRAIN": "1s"}}, "DRAIN"),
            ({"settings": {"MOUNTS": "chat"}}, "MOUNTS"),
            ({"settings": {"EVENTS_PER_SECOND": -1}}, "EVENTS_PER_SECOND"),
            ({"drain": {"duration": "soon"}}, "drain"),
            ({"drain": {"marginSeconds": 1}}, "marginSeconds"),
            ({"redis": {"url": "http://redis"}}, "redis"),
            ({"database": {"url": "sqlite:x"}}, "database"),
            ({"auth": {"jwtPublicKey": {"value": "not a key"}}}, "jwtPublicKey"),
            ({"auth": {"jwksUrl": "ftp://x"}}, "jwksUrl"),
            ({"image": {"digest": "latest"}}, "digest"),
            ({"internalService": {"type": "LoadBalancer"}}, "internalService"),
            ({"service": {"sessionAffinity": "ClientIP"}}, "service"),
            ({"ports": {"public": 80}}, "public"),
            ({"ingress": {"hosts": [{"host": "x"}]}}, "hosts"),
        ]:
            with self.subTest(values=values):
                self.refused(values, path)


class Together(unittest.TestCase):
    def test_one_node_beside_other_servers_may_have_sqlite(self):
        for settings in ({"SQLITE_WITH_REDIS": "true"}, {"SQLITE_WITH_REDIS": True}, {"MOUNTS": "relay=/relay"}):
            with self.subTest(settings=settings):
                self.assertTrue(manifests(merged(REDIS, KEY, TOKEN, {"settings": settings})))


class Files(unittest.TestCase):
    """Duplicated facts agree."""

    def test_the_schema_is_strict_and_whole(self):
        def walk(node, path):
            # Environment variables have Kubernetes' schema; only their names are checked.
            if "properties" in node and path != ".extraEnv[]":
                self.assertIs(node.get("additionalProperties"), False, path)
            for key, part in node.get("properties", {}).items():
                walk(part, f"{path}.{key}")
            if "items" in node:
                walk(node["items"], f"{path}[]")

        found = schema()
        walk(found, "")
        jsonschema.Draft202012Validator.check_schema(found)
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        self.assertEqual(set(found["properties"]) - {"global"}, set(defaults))

    def test_every_setting_can_be_set(self):
        known = schema()["properties"]["settings"]["properties"]
        self.assertEqual(set(known) | OWN, set(settings()))
        self.assertFalse(set(known) & OWN)

    def test_the_version_is_the_gateways(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertIn(f'\nversion = "{chart["appVersion"]}"\n', (ROOT / "Cargo.toml").read_text())

    def test_another_chart_may_have_this_one(self):
        self.assertTrue(manifests(merged(EMBEDDED, {"global": {"imageRegistry": "x"}})))


if __name__ == "__main__":
    unittest.main()
