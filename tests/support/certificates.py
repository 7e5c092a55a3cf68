"""Certificates for tests: an authority of ours, one of somebody else's, and a certificate that has expired."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rstitch.authority import make_certificates
from rstitch.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Authority:
    """A folder of `rstitch certs`."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        make_certificates(folder, {}, days=2)
        return cls(folder)

    def file(self, name: str) -> str:
        """Gives the path of a file such as `router.pem` or `router.key`."""
        return str(self.folder / name)

    @property
    def ca(self) -> str:
        return self.file("ca.pem")

    def served_as(self, part: str) -> dict[str, str]:
        """Settings of a server that shows the certificate of a part."""
        return {"tls_cert": self.file(f"{part}.pem"), "tls_key": self.file(f"{part}.key")}

    def asking_as(self, part: str, **more: str) -> Credentials:
        """A client that shows the certificate of a part."""
        shown = {"tls_cert": self.file(f"{part}.pem"), "tls_key": self.file(f"{part}.key")}
        return Credentials(**{"tls_ca": self.ca, **shown, **more})

    def expired(self, name: str = "expired") -> None:
        """Makes a certificate of this authority that ended yesterday, under the key of the client's."""
        wish = self.file("wish.csr")
        key = self.file("client.key")
        run = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=client", "-out", wish]
        subprocess.run(run, check=True, capture_output=True)
        signed = ["openssl", "x509", "-req", "-in", wish, "-CA", self.ca, "-CAkey", self.file("ca.key")]
        signed += ["-set_serial", "7", "-days", "-1", "-out", self.file(f"{name}.pem")]
        subprocess.run(signed, check=True, capture_output=True)
        shutil.copy(key, self.file(f"{name}.key"))
