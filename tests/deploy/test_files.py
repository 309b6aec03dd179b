"""The files of deploy/ and the image: valid by their schemas, and true of the program that they start."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_validate
import pytest
import yaml
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from metered_realtime.cli.app import app
from metered_realtime.server.config.file import TABLES, Config, ConfigError, parse_config
from metered_realtime.server.server import STOP_TIMEOUT
from tests.cli.test_serve import program
from tests.deploy.nginx import TEMPLATE
from tests.support.coturn import coturn, needs_coturn

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "metered-realtime@.service"
BIN = Path(sys.executable).parent

CLUSTER_OPTIONS, CLUSTER_VARIABLES, CLUSTER_TABLES = {"--node-id"}, {"METERED_REDIS_URL"}, {"cluster"}
"""What the files name of a cluster."""

ENVIRONMENT = {
    "METERED_SERVER_NAME": "rt.example",
    "METERED_API_KEY": "pk_live_test",
    "METERED_SECRET_ID": "sk_id_test",
    "METERED_SECRET": "sk_secret_" + "t" * 40,
    "METERED_TURN_SECRET": "shared",
    "METERED_METRICS_TOKEN": "a token of a good length",
    "TURN_EXTERNAL_IP": "203.0.113.1",
}
"""A filled in .env."""


def serve_options() -> dict[str, TyperOption]:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return {name: it for it in group.commands["serve"].params if isinstance(it, TyperOption) for name in it.opts}


def check_command(command: list[str]) -> None:
    """Check that the program knows the options of a command."""
    assert command[0] == "serve"
    assert {it for it in command if it.startswith("-")} <= serve_options().keys() | CLUSTER_OPTIONS


def without_cluster(command: list[str]) -> list[str]:
    kept = list(command)
    for option in CLUSTER_OPTIONS & set(kept):
        place = kept.index(option)
        del kept[place : place + 2]
    return kept


def interpolated(text: str) -> str:
    """Do what Compose does with `${NAME}`, `${NAME:-default}` and `${NAME:?complaint}`."""
    pattern = r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}"
    return re.sub(pattern, lambda it: ENVIRONMENT.get(it[1], it[2] or ""), text)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated((DEPLOY / "docker-compose.yml").read_text()))
    return loaded["services"]


class TestCompose:
    @pytest.mark.parametrize("path", [ROOT / "docker-compose.yml", DEPLOY / "docker-compose.yml"], ids=["one", "two"])
    def test_is_valid_by_the_schema_of_compose(self, path: Path) -> None:
        checked = subprocess.run(
            [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout

    def test_the_program_knows_what_the_nodes_are_told(self) -> None:
        known = {it.envvar for it in serve_options().values()} | CLUSTER_VARIABLES
        for name in ("node-a", "node-b"):
            node = compose()[name]
            check_command(node["command"])
            assert {it for it in node["environment"] if it.startswith("METERED_")} <= known

    def test_every_variable_is_in_the_example(self) -> None:
        used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "docker-compose.yml").read_text()))
        assert used == set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))

    def test_the_proxy_has_the_variables_of_its_template_and_the_addresses_of_the_nodes(self) -> None:
        services = compose()
        given = services["proxy"]["environment"]
        assert given.keys() == set(re.findall(r"\$\{(\w+)\}", TEMPLATE.read_text()))
        for name in ("a", "b"):
            address = services[f"node-{name}"]["networks"]["inside"]["ipv4_address"]
            assert given[f"METERED_NODE_{name.upper()}"] == f"{address}:7880"
        trusted = services["node-a"]["environment"]["METERED_TRUSTED_PROXIES"]
        assert trusted == services["proxy"]["networks"]["inside"]["ipv4_address"]

    def test_nodes_have_time_to_say_goodbye(self) -> None:
        for service in ("node-a", "node-b"):
            assert float(compose()[service]["stop_grace_period"].removesuffix("s")) > STOP_TIMEOUT

    async def test_a_node_serves_and_the_health_check_of_the_image_sees_it(self) -> None:
        node = compose()["node-a"]
        environment = {name: value for name, value in node["environment"].items() if name not in CLUSTER_VARIABLES}
        command = without_cluster(node["command"])
        command[command.index("--host") + 1], command[command.index("--port") + 1] = "127.0.0.1", "0"
        async with program(*command, "--json", **environment) as process:
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            port = line["url"].rpartition(":")[2]
            assert await health_check(port) == 0
            token = {"Authorization": f"Bearer {ENVIRONMENT['METERED_METRICS_TOKEN']}"}
            url = f"http://127.0.0.1:{port}/metrics"
            async with aiohttp.ClientSession(headers=token) as session, session.get(url) as answer:
                assert answer.status == 200
            process.terminate()
            await process.wait()
        assert (line["api_key"], line["secret"]) == (ENVIRONMENT["METERED_API_KEY"], ENVIRONMENT["METERED_SECRET"])
        assert await health_check(port) != 0

    @needs_coturn
    async def test_the_relay_knows_its_options(self, tmp_path: Path) -> None:
        given = [it for it in compose()["turn"]["command"] if it != "-n" and "listening-port" not in it]
        async with coturn("", tmp_path, given):
            pass
        log = (tmp_path / "log").read_text()
        assert "CONFIG ERROR" not in log, log


class TestImage:
    DOCKERFILE = ROOT / "Dockerfile"

    def test_passes_hadolint(self) -> None:
        checked = subprocess.run([BIN / "hadolint", self.DOCKERFILE], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout

    def test_runs_nothing_in_its_last_stage_and_not_as_root(self) -> None:
        last = self.DOCKERFILE.read_text().rpartition("\nFROM ")[2]
        assert not re.search(r"^RUN ", last, re.MULTILINE)
        user = re.search(r"^USER (\d+):\d+$", last, re.MULTILINE)
        assert user is not None
        assert int(user[1]) > 0

    def test_its_command_is_one_of_the_program(self) -> None:
        command = re.search(r"^CMD (\[.*\])$", self.DOCKERFILE.read_text(), re.MULTILINE)
        assert command is not None
        check_command(json.loads(command[1]))

    def test_what_it_copies_is_sent_to_the_builder(self) -> None:
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", self.DOCKERFILE.read_text(), re.MULTILINE)
        allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        for name in " ".join(copied).split():
            assert (ROOT / name).exists()
            assert any(fnmatch(name, it) for it in allowed)

    def test_its_extras_are_those_of_the_package(self) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        installed = re.search(r"'\.\[(.*)\]'", self.DOCKERFILE.read_text())
        assert installed is not None
        assert set(installed[1].split(",")) <= extras.keys()


async def health_check(port: str) -> int | None:
    """Run the health check of the image against a port of this machine."""
    command = re.search(r"HEALTHCHECK .*\\\n\s*(\[.*\])", TestImage.DOCKERFILE.read_text())
    assert command is not None
    _, *arguments = [it.replace(":7880", f":{port}") for it in json.loads(command[1])]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


class TestKubernetes:
    @pytest.fixture
    def objects(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))

    @pytest.fixture
    def node(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        """The spec of the pods."""
        spec: dict[str, Any] = find(objects, "Deployment")["spec"]["template"]["spec"]
        return spec

    @pytest.fixture
    def config(self, objects: list[dict[str, Any]]) -> Config:
        text = re.sub("<(.*)>", rf"\1{'t' * 40}", find(objects, "Secret")["stringData"]["server.toml"])
        unknown = tomllib.loads(text).keys() - set(TABLES)
        assert unknown <= CLUSTER_TABLES
        for table in unknown:
            text = re.sub(rf"^\[{table}\]\n(?:\w.*\n)*", "", text, flags=re.MULTILINE)
        return parse_config(text, Path("server.toml"))

    def test_is_valid_by_the_schema_of_kubernetes(self, objects: list[dict[str, Any]]) -> None:
        assert len(objects) >= 5
        for it in objects:
            kubernetes_validate.validate(it, kubernetes_validate.latest_version(), strict=True)

    def test_nodes_have_time_until_nothing_is_routed_to_them_and_to_say_goodbye(self, node: dict[str, Any]) -> None:
        waiting = " ".join(node["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        pause = re.search(r"sleep\((\d+)\)", waiting)
        assert pause is not None
        assert node["terminationGracePeriodSeconds"] > int(pause[1]) + STOP_TIMEOUT

    def test_selectors_and_ports_find_what_they_are_for(self, objects: list[dict[str, Any]]) -> None:
        deployment = find(objects, "Deployment")["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
        assert find(objects, "Service")["spec"]["selector"] == labels
        assert find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
        ports = {it["name"] for it in deployment["template"]["spec"]["containers"][0]["ports"]}
        assert [it["targetPort"] for it in find(objects, "Service")["spec"]["ports"]] == ["http"]
        assert {"http", "metrics"} <= ports

    def test_keys_that_were_not_filled_in_are_refused(self, objects: list[dict[str, Any]]) -> None:
        keys = find(objects, "Secret")["stringData"]["server.toml"].partition("[[publishable_keys]]")
        for text in (keys[2], keys[2].replace("<pk_live_>", "pk_live_ours")):
            with pytest.raises(ConfigError):
                parse_config(keys[1] + text, Path("server.toml"))

    def test_its_configuration_fits_its_ports_and_its_command(self, node: dict[str, Any], config: Config) -> None:
        (server,) = node["containers"]
        check_command(server["args"])
        assert config.metrics is not None
        assert {it["name"]: it["containerPort"] for it in server["ports"]} == {
            "http": config.port,
            "metrics": config.metrics.port,
        }
        mounted = server["volumeMounts"][0]["mountPath"]
        assert f"{mounted}/server.toml" in server["args"]

    def test_nodes_run_as_the_user_of_the_image(self, node: dict[str, Any]) -> None:
        user = re.search(r"^USER (\d+):", TestImage.DOCKERFILE.read_text(), re.MULTILINE)
        assert user is not None
        assert node["securityContext"]["runAsUser"] == int(user[1])


def find(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the object of this kind that belongs to the server."""
    (found,) = [it for it in objects if (it["kind"], it["metadata"]["name"]) == (kind, "metered-realtime")]
    return found


class TestUnit:
    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """The unit, with the program of this environment."""
        path = tmp_path / UNIT.name.replace("@", "@7881")
        path.write_text(UNIT.read_text().replace("/opt/metered-realtime/bin", str(BIN)))
        return path

    def test_passes_systemd(self, unit: Path) -> None:
        checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")

    def test_is_hardened(self, unit: Path) -> None:
        """The threshold is in tenths of systemd's exposure level: 2.0 is OK, an ordinary unit has 9.6."""
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout

    def test_the_program_knows_its_options(self) -> None:
        command = re.search(r"^ExecStart=\S+ (.*)$", UNIT.read_text(), re.MULTILINE)
        assert command is not None
        check_command(command[1].split())

    def test_a_node_has_time_to_say_goodbye(self) -> None:
        time = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)
        assert time is not None
        assert int(time[1]) > STOP_TIMEOUT
