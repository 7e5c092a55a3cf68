"""What `--tp` asks for: refused, before a model is loaded, where it cannot be; and what of it is each rank's.

It knows settings and configs, no process.
"""

from __future__ import annotations

import torch

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.ranks.plan import check_divisible
from model_worker.settings import WorkerSettings
from rstitch.errors import invalid


def check_division(settings: WorkerSettings) -> None:
    """Raises RstitchError, or UnsupportedModel, if model or device cannot be divided so, or another setting forbids."""
    for flag, wrong in (
        ("--shared-listen", bool(settings.shared_listen)),
        ("--quantize", settings.quantize != "none"),
        ("--compile", settings.compile == "on"),
        ("--batch-invariant", settings.batch_invariant),
        ("--beside", bool(settings.beside)),
    ):
        if wrong:
            raise invalid(flag, "it is not for a model that is divided (--tp).", "Leave one of the two out.")
    device = torch.device(settings.device)
    if device.type == "cuda":
        count, last = torch.cuda.device_count(), (device.index or 0) + settings.tp - 1
        if last >= count:
            raise UnsupportedModel(
                f"--tp {settings.tp} with --device {settings.device} needs the cards up to cuda:{last}: torch sees "
                f"{count} CUDA devices here"
            )
    check_divisible(settings.model, settings.tp)


def settings_of_rank(settings: WorkerSettings, rank: int) -> WorkerSettings:
    """Returns the settings of a rank: rank 0's, with the card that comes so many after that one's."""
    device = torch.device(settings.device)
    card = f"cuda:{(device.index or 0) + rank}" if device.type == "cuda" else settings.device
    return settings.model_copy(update={"device": card})
