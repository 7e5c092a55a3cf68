"""The pair that a head is trained for: who the models are, where they run, and who writes their answers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from evals.asking.access import access
from evals.asking.stacks import models
from model_worker.engine.errors import UnsupportedModel
from model_worker.tokenizer import load_tokenizer
from rstitch.client.sync import Client
from rstitch.errors import invalid
from training.head.options import Options
from training.head.refusals import TRAINING
from training.head.rollouts.engines import open_engines
from training.head.rollouts.in_process import InProcessRollouts
from training.head.rollouts.judging import Judge
from training.head.rollouts.served import ServedRollouts
from training.head.rollouts.types import Rollouts
from training.head.warm_start.readout import LmHead

ROLES = ("slm", "llm")


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models by their roles.

    Attributes:
        models: folders or hub ids, as whoever runs them knows them.
        places: device and dtype, such as "cpu float32".
    """

    models: dict[str, str]
    places: dict[str, str]

    @property
    def names(self) -> dict[str, str]:
        return {role: Path(model).name for role, model in self.models.items()}

    def slm_files(self, *, for_chains: bool = False) -> str:
        """The SLM's folder or hub id, whose LM head a head's readout is made of.

        Args:
            for_chains: the SLM reads reference chains here, too.

        Raises: RstitchError if the files are not to be had on this machine.
        """
        slm = self.models["slm"]
        try:
            LmHead.of(slm)
        except (OSError, ValueError, KeyError, UnsupportedModel) as error:
            why = " ".join(str(error).split())[:300]
            what = f"the SLM's files cannot be read on this machine, and a head's readout is made of them: {why}"
            # Chains are read by the SLM in this process, with a readout or without.
            flags = "--num-readout 0 with --warm-from answers" if for_chains else "--num-readout 0"
            remedy = f"Give {flags}, or train where the SLM's folder or hub id ({slm}) can be read."
            raise invalid("--num-readout", what, remedy) from error
        return slm

    def fingerprint(self) -> str:
        """The tokenizer's, as the workers tell it; "" if it cannot be had here, and then the head fits any."""
        try:
            return load_tokenizer(self.models["slm"]).fingerprint
        except UnsupportedModel:
            return ""


def pair_of(options: Options) -> Pair:
    """The models of a running router, or those of the flags. Raises RstitchError if the router is not ready."""
    if options.run.in_process:
        return Pair(dict(zip(ROLES, models(options.stack), strict=True)), dict.fromkeys(ROLES, "cpu float32"))
    with Client(options.run.router, credentials=access()) as client:
        workers = {worker.role.value: worker for worker in client.wait_ready().workers}
    return Pair(
        {role: workers[role].model for role in ROLES},
        {role: f"{workers[role].device} {workers[role].dtype}" for role in ROLES},
    )


def check_labels(router: str) -> None:
    """Raises RstitchError if the router keeps no session with a label, from which a warm start could learn."""
    with Client(router, credentials=access()) as client:
        if next(iter(client.trajectories(page_size=1, labelled=True)), None) is None:
            remedy = "Label some: rstitch trajectory label ID right|wrong."
            raise invalid("--warm-from", "the router keeps no session with a label.", remedy)


def rollouts_of(options: Options, pair: Pair, judge: Judge, held: ExitStack) -> Rollouts:
    """Who writes the pair's answers; ends with `held`. Raises RstitchError, UnsupportedModel."""
    if options.run.in_process:
        # After a kill other answers are written at once than would have been.
        engines = open_engines(pair.models["slm"], pair.models["llm"], batch_invariant=True)
        return held.enter_context(InProcessRollouts(engines, judge, options.run.sessions))
    served = ServedRollouts(
        options.run.router, judge, f"{options.head.name}{TRAINING}", options.run.sessions, options.run.patience_s
    )
    return held.enter_context(served)
