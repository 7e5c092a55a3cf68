"""A lock on a local stack: certificates on every wire between its parts, and a key for whoever asks its router.

All of it lies in one folder and goes with it. Redis stays in clear: it listens on this machine only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rstitch.authority import make_certificates
from rstitch.credentials import Credentials
from rstitch.local.part import ROOT, StackError

_DAYS = 7
_SCOPES = "generate,trajectories,profiles,admin"


@dataclass(frozen=True, slots=True)
class Lock:
    """Certificates and keys in `folder`, as flags of the parts and as credentials of who calls them."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Lock:
        """Makes it all. Raises: RstitchError without openssl; StackError if no key can be made."""
        made = cls(folder)
        make_certificates(folder, {}, _DAYS)
        command = [sys.executable, "-m", "router_svc.access", "add", "--file", made._keys]
        command += ["--tenant", "local", "--scope", _SCOPES]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StackError("no key could be made.", part="router", log=done.stderr.splitlines())
        secret = folder / "key"
        secret.touch(mode=0o600)
        secret.write_text(done.stdout)
        return made

    @property
    def client(self) -> Credentials:
        """Gives what a client of the router shows."""
        return self._asking_as("client", api_key_file=str(self.folder / "key"))

    @property
    def prober(self) -> Credentials:
        """Gives what a worker is asked with whether it serves: it hears its router alone."""
        return self._asking_as("router")

    def of_worker(self, role: str) -> list[str]:
        """Gives the flags of a worker."""
        return [*self._serving_as(role), "--tls-client-name", "router"]

    def of_router(self) -> list[str]:
        """Gives the flags of a router."""
        # fmt: off
        return [*self._serving_as("router"), "--keys", self._keys, "--worker-tls-ca", self._file("ca.pem"),
                "--worker-tls-cert", self._file("router.pem"), "--worker-tls-key", self._file("router.key")]
        # fmt: on

    def of_gateway(self) -> list[str]:
        """Gives the flags of a gateway."""
        # fmt: off
        return ["--router-tls-ca", self.ca, "--router-tls-cert", self._file("gateway.pem"), "--router-tls-key",
                self._file("gateway.key"), "--http-tls-cert", self._file("gateway.pem"), "--http-tls-key",
                self._file("gateway.key")]
        # fmt: on

    @property
    def ca(self) -> str:
        """Gives the file of the authority that all certificates come from."""
        return self._file("ca.pem")

    @property
    def _keys(self) -> str:
        return self._file("keys.json")

    def _serving_as(self, part: str) -> list[str]:
        shown = ["--tls-cert", self._file(f"{part}.pem"), "--tls-key", self._file(f"{part}.key")]
        return [*shown, "--tls-client-ca", self._file("ca.pem")]

    def _asking_as(self, part: str, api_key_file: str = "") -> Credentials:
        shown = self._file(f"{part}.pem"), self._file(f"{part}.key")
        return Credentials(tls_ca=self._file("ca.pem"), tls_cert=shown[0], tls_key=shown[1], api_key_file=api_key_file)

    def _file(self, name: str) -> str:
        return str(self.folder / name)
