"""A real Prometheus of the tests' own, with our files."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from rstitch.local.processes import free_port
from tests.support.queries import PROMETHEUS
from tests.support.scraped import ScrapedStack

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="there is no prometheus on PATH: Debian has it in `prometheus`"
)


class Prometheus:
    """Scrapes a locked stack every second, as deploy/prometheus/prometheus.tls.yml says; a context manager."""

    def __init__(self, folder: Path, stack: ScrapedStack) -> None:
        assert stack.lock is not None
        self._folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        config = yaml.safe_load((PROMETHEUS / "prometheus.tls.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
        files = {"ca_file": "ca.pem", "cert_file": "prometheus.pem", "key_file": "prometheus.key"}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [stack.metrics[job["job_name"]]]}]
            job["tls_config"] = {name: str(stack.lock.folder / file) for name, file in files.items()}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        command = ["prometheus", f"--config.file={self._folder}/prometheus.yml", "--log.level=warn"]
        command += [f"--storage.tsdb.path={self._folder}/data", "--enable-feature=exemplar-storage"]
        command += [f"--web.listen-address={self._url.removeprefix('http://')}"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._is_ready, 60)
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.wait()

    def values(self, query: str) -> list[float]:
        """The values of a query at this moment that are numbers."""
        found = [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def ask(self, what: str, **parameters: Any) -> Any:
        """Asks its HTTP API. Raises: urllib's errors, with what it said of a query that is wrong."""
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            told = json.load(reply)
        assert told["status"] == "success", told
        return told["data"]

    def rules(self) -> dict[str, dict[str, Any]]:
        """The alerts by name, with their states."""
        return {rule["name"]: rule for group in self.ask("rules")["groups"] for rule in group["rules"]}

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def wait_for(condition: Callable[[], object], patience_s: float, missing: Callable[[], str] = str) -> None:
    """Waits for a condition, but not for ever; `missing` says what it lacks."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, missing()
        time.sleep(0.1)
