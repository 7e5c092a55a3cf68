"""What a worker says of itself: the reply to GetInfo without what changes, and its announcement likewise."""

from __future__ import annotations

import uuid

from fleet.announcement import Announcement
from model_worker import messages
from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.quantizing import count_parameters
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import shared_files
from model_worker.fingerprint import Served, shared_fingerprint, weights_fingerprint
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from model_worker.tokenizer import TokenizerFiles
from rstitch import __version__
from rstitch.v1 import common_pb2, worker_pb2


def model_info(
    role: Role, settings: WorkerSettings, loaded: LoadedModel, engine: Engine, tokenizer: TokenizerFiles
) -> worker_pb2.GetInfoResponse:
    """Returns what GetInfo says of the model of the role that the process is started for."""
    served = Served(settings.quantize, settings.random_weights)
    return worker_pb2.GetInfoResponse(
        role=role.model,
        model=settings.model,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=engine.limits.vocab_size,
        stop_tokens=sorted(loaded.stop_tokens),
        context_length=engine.limits.context_length,
        hidden_size=loaded.hidden_size,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        architecture=type(loaded.module).__name__,
        num_parameters=loaded.num_parameters or count_parameters(loaded.module),
        instance_id=uuid.uuid4().hex,
        version=__version__,
        head_terms=True,
        grammars=True,
        decode_many=True,
        step_costs=messages.step_costs(engine.costs),
        batch_invariant=engine.limits.batch_invariant,
        path=engine.path,
        weights_fingerprint=weights_fingerprint(settings.model, loaded, served),
        num_cards=settings.tp,
    )


def slm_info(
    settings: WorkerSettings, info: worker_pb2.GetInfoResponse, engine: SharedEngine
) -> worker_pb2.GetInfoResponse:
    """Returns what GetInfo says of the SLM: the LLM's hidden size and stop tokens, its own parameters and costs."""
    of_slm = worker_pb2.GetInfoResponse()
    of_slm.CopyFrom(info)
    of_slm.role = common_pb2.MODEL_SLM
    of_slm.weights_fingerprint = shared_fingerprint(info.weights_fingerprint, shared_files(settings.model))
    of_slm.num_parameters = count_parameters(engine.shared.slm)
    del of_slm.step_costs[:]
    of_slm.step_costs.extend(messages.step_costs(engine.shallow_costs))
    return of_slm


def announcement(role: str, info: worker_pb2.GetInfoResponse, address: str) -> Announcement:
    """Returns what is told of a worker again and again, without the figures of a moment."""
    return Announcement(
        id=info.worker_id,
        role=role,
        address=address,
        instance_id=info.instance_id,
        weights_fingerprint=info.weights_fingerprint,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        model=info.model,
        version=info.version,
        num_pages=0,
        num_free_pages=0,
        num_running=0,
        num_waiting=0,
        num_sessions=0,
        draining=False,
        num_cards=info.num_cards,
    )
