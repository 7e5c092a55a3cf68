"""How the tools are let in by a router that they did not start: by the variables that `rstitch` reads, too."""

from __future__ import annotations

import dataclasses
import os

from rstitch.credentials import Credentials, variable_of


def access() -> Credentials:
    """Reads TLS and API key from RSTITCH_TLS_CA, RSTITCH_API_KEY_FILE, ...; `rstitch` turns its flags into these."""
    return Credentials.of_environment()


def forget_access() -> None:
    """Drops all of it: a stack of our own is talked to in clear."""
    for field in dataclasses.fields(Credentials):
        os.environ.pop(variable_of(field.name), None)
