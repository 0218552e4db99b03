"""What deploy/compose.yaml, its Prometheus and its Grafana name is there, and fits the image."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from pspf.admin.app import ENDPOINTS
from pspf.admin.security import HostRule
from pspf.runtime.control.ports import parse_address
from pspf.settings import load_settings
from tests.support.dockerfile import read_stages

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
TOKEN: Final = "a-token-of-24-characters"


def read(*path: str) -> Any:
    text = DEPLOY.joinpath(*path).read_text()
    return yaml.safe_load(re.sub(r"\$\{PSPF_ADMIN_TOKEN:\?[^}]*\}", TOKEN, text))


COMPOSE: Final = read("compose.yaml")
WORKER: Final = COMPOSE["services"]["worker"]
SCRAPE: Final = read("prometheus", "prometheus.yml")["scrape_configs"][0]


def test_every_setting_of_the_worker_is_one() -> None:
    settings = load_settings(WORKER["environment"])
    assert {f"PSPF_{name}" for name in type(settings).model_fields} >= WORKER["environment"].keys()
    assert settings.ADMIN_TOKEN is not None


def test_the_stack_does_not_start_without_a_token() -> None:
    assert "${PSPF_ADMIN_TOKEN:?" in (DEPLOY / "compose.yaml").read_text()


def test_prometheus_scrapes_an_endpoint_that_is_open_where_the_worker_listens() -> None:
    (metrics,) = [each for each in ENDPOINTS if each.path == SCRAPE["metrics_path"]]
    (found,) = SCRAPE["dns_sd_configs"]
    address = parse_address("PSPF_ADMIN", WORKER["environment"]["PSPF_ADMIN"], host="", port=0)
    assert metrics.is_open
    assert (found["names"], found["port"]) == (["worker"], address.port)
    assert not address.is_loopback
    assert HostRule(True, frozenset()).allows(f"172.18.0.3:{found['port']}")  # it goes by address


def test_all_files_that_are_mounted_or_named_are_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), source
    assert (DEPLOY / WORKER["build"]["context"] / "Dockerfile").exists()
    (rules,) = read("prometheus", "prometheus.yml")["rule_files"]
    assert (DEPLOY / "prometheus" / rules).exists()


def test_grafana_looks_where_the_dashboard_is_and_asks_the_prometheus_that_runs() -> None:
    (provider,) = read("grafana", "provisioning", "dashboards", "pspf.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/pspf.json" in mounted
    (source,) = read("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"]
    assert source["url"].removeprefix("http://").partition(":")[0] in COMPOSE["services"]


def test_a_worker_is_given_longer_to_stop_than_it_takes() -> None:
    grace_ms = 1_000 * int(WORKER["stop_grace_period"].removesuffix("s"))
    assert grace_ms >= load_settings(WORKER["environment"]).DRAIN_TIMEOUT_MS + 10_000


def test_the_server_keeps_its_data_and_evicts_nothing() -> None:
    command = " ".join(COMPOSE["services"]["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert any(volume.endswith(":/data") for volume in COMPOSE["services"]["valkey"]["volumes"])


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_s_command_is_one_for_the_image_and_its_app_is_there() -> None:
    assert read_stages(ROOT / "Dockerfile")[-1].command("ENTRYPOINT") == ["pspf"]
    command, target = WORKER["command"]
    assert command == "worker"
    module = target.partition(":")[0].replace(".", "/")
    assert (ROOT / module).is_dir()
    assert "../apps:/app/apps:ro" in WORKER["volumes"]


def test_the_dockerfile_s_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = str(linter) if linter.exists() else shutil.which("hadolint")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no hadolint: the extra `deploy` is not installed: CI=true make test")
        pytest.skip("the extra `deploy` is not installed: CI=true make test")
    done = subprocess.run([found, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
