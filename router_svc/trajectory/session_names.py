"""Whose a session is: its name, made of its tenant and of the id that its client gave it.

    tenant   id    name
    ""       s     s         as before there were tenants: what was kept then stays readable
    acme     s     acme:s

What must not be mistaken goes by names: keys, locks, what runs here, and the sessions of workers. What people see goes
by ids: clients, errors and logs. A name is made where a request comes in, with the caller's own tenant. So nobody has a
name for what is another's, and there is nothing to check: an id of another tenant is as unknown as one that nobody has.
"""

from __future__ import annotations

import hashlib

# No session id has it, as `check_session_id` in api/validation.py sees to: the last one ends the tenant.
_SEPARATOR = ":"


def session_name(tenant: str, session_id: str) -> str:
    """The name of a tenant's session; "" is the tenant of all who need no key."""
    return f"{tenant}{_SEPARATOR}{session_id}" if tenant else session_id


def id_in(name: str) -> str:
    """The id that the client gave, or was given, in a session's name."""
    return name.rpartition(_SEPARATOR)[2]


def tenant_in(name: str) -> str:
    """The tenant in a session's name; "" is that of all who need no key."""
    return name.rpartition(_SEPARATOR)[0]


def facts_of(name: str) -> dict[str, str]:
    """What logs say of the session of that name: its id, and its tenant if it has one."""
    tenant = tenant_in(name)
    return {"session_id": id_in(name)} | ({"tenant": tenant} if tenant else {})


def salt_of(tenant: str, salt: str) -> str:
    """Under what workers share what they have computed: the salt alone without a tenant, else a hash of both.

    Whatever salts they choose, two tenants have none in common.
    """
    # With the length no other two make the same text.
    return hashlib.sha256(f"{len(tenant)}:{tenant}{salt}".encode()).hexdigest() if tenant else salt
