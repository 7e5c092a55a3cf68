"""Where a router finds the keys that it is shown, by its setting. It does not know what they open."""

from __future__ import annotations

from pathlib import Path

from router_svc.access.cached_keys import CachedKeys
from router_svc.access.key_store import KeyStore
from rstitch.service.key_file import KeyFile
from storage.redis_address import RedisAddress

OFF, REDIS = "off", "redis"


def key_source(setting: str, redis: RedisAddress) -> CachedKeys | KeyFile | None:
    """Returns the source that `--keys` names; None: nobody is asked for a key. Raises RstitchError about a bad file."""
    if setting == OFF:
        return None
    # One try each time: the next comes soon, and meanwhile the keys grow older.
    return CachedKeys(KeyStore(redis, patience_s=0)) if setting == REDIS else KeyFile(Path(setting), "--keys")
