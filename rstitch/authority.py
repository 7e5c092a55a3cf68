"""A certificate authority for trying out: certificates for the parts of a stack, made by the `openssl` command.

A network that others use has an authority of its own; nobody guards the key of this one.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from rstitch.errors import RstitchError, invalid

AUTHORITY = "ca"
_LOCAL = ("localhost", "127.0.0.1", "::1")
# Each part's names; the first is its own, which a peer may ask for, and that of its files.
PARTS: Mapping[str, tuple[str, ...]] = {
    "router": ("router", *_LOCAL),
    "slm": ("slm", "slm-worker", "worker", *_LOCAL),
    "llm": ("llm", "llm-worker", "worker", *_LOCAL),
    "redis": ("redis", *_LOCAL),
    "client": ("client",),
    "prometheus": ("prometheus",),
}
# They call and are not called.
_CLIENTS = ("client", "prometheus")
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_certificates(folder: Path, names: Mapping[str, Sequence[str]], days: int) -> list[Path]:
    """Makes an authority and a certificate for each part, which hold for `days`; `names` has further names of parts.

    Each has two files, NAME.pem and NAME.key; only this user may read a key.

    Returns: the files. Raises: RstitchError if one is there already, or there is no openssl.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        told, remedy = "there is no openssl on PATH.", "Install it; any package manager has it."
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "NO_OPENSSL", told, remedy=remedy)
    made = [folder / f"{name}{ending}" for name in (AUTHORITY, *PARTS) for ending in (".pem", ".key")]
    if there := [path.name for path in made if path.exists()]:
        raise invalid("--out", f"the folder holds {', '.join(there)} already.", "Name another, or remove them.")
    wanted = {part: _alternative_names([*own, *names.get(part, ())]) for part, own in PARTS.items()}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in made:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if path.suffix == ".key" else 0o644))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            maker = _Maker(openssl, folder, Path(scratch), days)
            maker.authority()
            for part, alternative_names in wanted.items():
                maker.certificate(part, alternative_names)
    except BaseException:  # half of a set is of no use, and would be in the way of the next
        for path in made:
            path.unlink()
        raise
    return made


class _Maker:
    """Makes keys and certificates by the command `openssl`, each in a run of its own."""

    def __init__(self, openssl: str, folder: Path, scratch: Path, days: int) -> None:
        self._openssl = openssl
        self._folder = folder
        self._scratch = scratch
        self._days = str(days)

    def authority(self) -> None:
        settings = "[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nsubjectKeyIdentifier=hash\n"
        settings += "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        config = self._write("ca.cnf", settings)
        files = ("-keyout", self._path(AUTHORITY, ".key"), "-out", self._path(AUTHORITY, ".pem"))
        subject = ("-subj", f"/CN=rstitch test authority {secrets.token_hex(4)}", "-days", self._days)
        self._run("req", "-x509", "-config", config, *_NEW_KEY, *files, *subject)

    def certificate(self, part: str, alternative_names: str) -> None:
        config = self._write("part.cnf", "[req]\ndistinguished_name=dn\n[dn]\n")
        uses = "clientAuth" if part in _CLIENTS else "serverAuth,clientAuth"
        extensions = (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n"
        )
        extensions += f"authorityKeyIdentifier=keyid\nextendedKeyUsage={uses}\n"
        extensions += f"subjectAltName={alternative_names}\n"
        wish = str(self._scratch / "part.csr")
        key = ("-keyout", self._path(part, ".key"), "-out", wish)
        self._run("req", "-new", "-config", config, *_NEW_KEY, *key, "-subj", f"/CN={part}")
        signed = ("-CA", self._path(AUTHORITY, ".pem"), "-CAkey", self._path(AUTHORITY, ".key"))
        until = ("-set_serial", f"0x{secrets.token_hex(16)}", "-days", self._days)
        wanted = ("-extfile", self._write("part.ext", extensions), "-out", self._path(part, ".pem"))
        self._run("x509", "-req", "-sha256", "-in", wish, *signed, *until, *wanted)

    def _path(self, name: str, ending: str) -> str:
        return str(self._folder / f"{name}{ending}")

    def _write(self, name: str, text: str) -> str:
        path = self._scratch / name
        path.write_text(text, "utf-8")
        return str(path)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._openssl, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            why = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it does not say why"]
            told = f"openssl {arguments[0]} failed: {why[0]}"
            raise RstitchError(grpc.StatusCode.INTERNAL, "OPENSSL_FAILED", told)


def _alternative_names(names: Sequence[str]) -> str:
    return ",".join(_alternative_name(name) for name in dict.fromkeys(names))


def _alternative_name(name: str) -> str:
    """Writes a name as openssl has it, an address as an address. Raises: RstitchError if it is neither."""
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        pass
    if not name or len(name) > 253 or not all(c.isascii() and (c.isalnum() or c in ".-*_") for c in name):
        raise invalid("--name", "it holds what is no name of a host.", "Write PART=HOST, such as router=gpu1.lan.")
    return f"DNS:{name}"
