"""Makes the fleet of a router from its settings. It opens connections and makes no call."""

from __future__ import annotations

from dataclasses import replace

from fleet.registry import Registry
from router_svc.settings import RouterSettings
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.connection import Connection
from router_svc.workers.discovery import Found, source_of
from router_svc.workers.fleet import Fleet
from router_svc.workers.kept_heads import KeptHeads
from router_svc.workers.streams import OpenStream
from rstitch.credentials import Credentials
from rstitch.service.telemetry import Telemetry


def make_fleet(
    settings: RouterSettings, registry: Registry, credentials: Credentials, telemetry: Telemetry, stream: OpenStream
) -> Fleet:
    """Raises RstitchError naming the flag of a file that does not load."""

    def client(model: Model, heads: KeptHeads, found: Found) -> WorkerClient:
        shown = credentials
        if found.tls_name and shown.secure and not shown.tls_name:
            shown = replace(shown, tls_name=found.tls_name)
        return WorkerClient(model, Connection(found.address, shown, telemetry), stream, heads)

    places = {Model.SLM: settings.slm, Model.LLM: settings.llm}
    sources = {model: source_of(places[model], model.label, lambda: registry) for model in Model}
    return Fleet(settings.fleet, sources, client)
