"""The model card of a model with shared layers. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.tiny.export import table

_CARD = """---
license: apache-2.0
library_name: transformers
language: en
pipeline_tag: text-generation
---
# tiny-shared-layers

`tiny-llm`, trained on so that its first {num_layers} of {total_layers} layers are an SLM: a head of {slm_parameters:,}
parameters after layer {num_layers} (a gated MLP of {adapter_size} beside the residual, a norm, then the model's own LM
head) writes the short style, the whole model of {parameters:,} parameters the verbose one. It shows *shared
parameters* in rstitch: R-Stitch (arXiv 2507.17307) on one set of weights and one KV cache
([docs/shared_parameters.md](../../docs/shared_parameters.md)).

It is an ordinary `transformers` folder, which `AutoModelForCausalLM` loads as the LLM; `shared_layers.json` and
`shared_layers.safetensors` are the head's. `rstitch up --shared models/tiny-shared-layers` serves a whole stack of it,
`python -m llm_worker --model models/tiny-shared-layers --shared-listen HOST:PORT` both models.

## Training

`python -m training.shared_layers` makes it from `models/tiny-llm`:
seed {seed}, {num_steps} steps of about {batch_tokens:,}
tokens of the train split, {hard:.0%} of the additions and subtractions hard, highest learning rate {learning_rate:g}
(scheduled as {knots}; step: share of it), Muon for matrices and AdamW for the rest, moving average of the
weights ({average}), bfloat16 autocast; {cpu_minutes:.0f} minutes of one CPU core. Both losses, of equal weight, are
taken on one forward over chats that mix lines of both styles; the loss is off at the token that begins a line of the
other writer's style. Last losses: LLM {llm_loss:.4f}, SLM {slm_loss:.4f}.

## Dev figures

{note}

{figures}

## Limits

Those of `tiny-llm`. Depth, steps and learning rate were chosen before the first look at an accuracy; nothing was tuned
on the test split.

Licence: Apache-2.0, like the repository.
"""


def card(recipe: Mapping[str, Any], sizes: Mapping[str, int], figures: Sequence[dict[str, Any]], note: str) -> str:
    """Fills in the card: a `Recipe`'s fields and how the run ended, its sizes, rows of `training.tiny.evaluate`."""
    more = {
        "cpu_minutes": recipe["cpu_seconds"] / 60,
        "num_steps": recipe["schedule"][-1][0],
        "knots": ", ".join(f"{max(0, step):,}: {share:g}" for step, share in recipe["schedule"]),
    }
    return _CARD.format(**recipe, **sizes, **more, figures=table(list(figures)), note=note)
