"""What bodies are made of, such that a bad one costs no more than a good one: its first fault is all that is told.

Otherwise a million bad elements are a million errors, made one after the other while nobody else is answered.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator

_MAX_FIELDS = 128
_MAX_BIASES = 300


class BoundedBody(BaseModel):
    """A body of few fields, whoever made them up."""

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > _MAX_FIELDS:
            raise ValueError(f"there are more than {_MAX_FIELDS} fields")
        return given


def _few(given: Any) -> Any:
    if isinstance(given, dict) and len(given) > _MAX_BIASES:
        raise ValueError(f"there are more than {_MAX_BIASES}")
    return given


Few = BeforeValidator(_few)
Texts = Annotated[list[str], Field(fail_fast=True)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Ids = Annotated[list[Uint32], Field(fail_fast=True)]
ListsOfIds = Annotated[list[Ids], Field(fail_fast=True)]
