"""The flags by which a service reaches Redis, the same for router and workers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

# What an address begins with.
URL_PATTERN = r"^(rediss?(\+cluster|\+sentinel)?|unix)://"


class RedisLogin(BaseSettings):
    """How a service shows itself to the Redis of its `--redis`, and whom it takes for that Redis."""

    redis_ca: Annotated[
        str, Field(description="File of the authorities that a rediss:// must come from; empty: the system's.")
    ] = ""
    redis_cert: Annotated[str, Field(description="File of the certificate that Redis is shown; empty: none.")] = ""
    redis_key: Annotated[str, Field(description="File of that certificate's key.")] = ""
    redis_password_file: Annotated[
        str, Field(description="File with the password of --redis; new connections read it again when it changes.")
    ] = ""
    redis_sentinel_password_file: Annotated[
        str, Field(description="File with the password of the Sentinels in --redis; empty: they ask for none.")
    ] = ""
