"""`python -m evals.renumber MODEL DEST`: the same model under other token ids.

Rows of the embedding and the LM head, the tokenizer's ids, stop tokens and their kin change places alike, so that the
model writes the same text in other ids; its special tokens can get other names, and its chat template is then another
that renders the same conversations with those. A pair of such a model and an SLM as it was must write text for text
what the plain pair writes: docs/pairs.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import AutoModelForCausalLM

from evals.commands import run_program
from evals.renumber import tokens
from evals.renumber.weights import renumber_model
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.loader import check_source
from rstitch.errors import invalid

_CONFIG, _TOKENIZER, _TEMPLATE = "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m evals.renumber`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model.")]
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write, new or empty.")]
    ids: Annotated[tokens.Ids, typer.Option(help="Which change places: those of added tokens, or all.")] = "special"
    rename: Annotated[
        tokens.Renamed,
        typer.Option(
            help="Which are spelled otherwise: markers of turns and the like, or all special tokens, stop tokens with "
            "them."
        ),
    ] = "none"
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A chat template in Jinja in place of the model's own, which is otherwise kept but for the names.",
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of the permutation.")] = 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 2 for bad input."""
    bad_input = (UnsupportedModel, OSError)
    return run_program("python -m evals.renumber", __doc__, run, Options, arguments, bad_input=bad_input)


def run(options: Options) -> int:
    """Renumbers and says how much. Returns the exit code."""
    by = renumber(
        options.model,
        options.dest,
        ids=options.ids,
        renamed=options.rename,
        template=options.template.read_text() if options.template else None,
        seed=options.seed,
    )
    moved = sum(old != new for old, new in by.ids.items())
    sys.stdout.write(f"{options.dest}: {moved} ids changed, {len(by.names)} tokens renamed\n")
    return 0


def renumber(
    model: Path,
    dest: Path,
    *,
    ids: tokens.Ids = "special",
    renamed: tokens.Renamed = "none",
    template: str | None = None,
    seed: int = 0,
) -> tokens.Renumbering:
    """Writes the model of a folder under other ids, in its own dtype; arguments are those of the command.

    Raises RstitchError or UnsupportedModel if the folder holds no such model, or `dest` holds something.
    """
    source = Path(check_source(str(model)))
    if dest.exists() and any(dest.iterdir()):
        raise invalid("DEST", f"{dest} is not empty.", "Name a new folder.")
    if not (source / _TOKENIZER).is_file():
        raise invalid("MODEL", f"{source} has no {_TOKENIZER}.", "Save its tokenizer with transformers first.")
    tokenizer = _read(source / _TOKENIZER)
    config = _read(source / _CONFIG)
    module: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    by = tokens.choose(tokenizer, config, ids, renamed, _stops(module), seed)
    renumber_model(module, by)
    module.save_pretrained(dest)
    own = config.pop("chat_template", None)
    if (source / _TEMPLATE).is_file():
        own = (source / _TEMPLATE).read_text()
    if template is None and isinstance(own, str):
        template = tokens.renumbered_template(own, by)
    if template is not None:
        (dest / _TEMPLATE).write_text(template)
    _write(dest / _TOKENIZER, tokens.renumbered_tokenizer(tokenizer, by))
    _write(dest / _CONFIG, tokens.renumbered_config(config, by))
    if (file := source / "special_tokens_map.json").is_file():
        _write(dest / file.name, tokens.renumbered_config(_read(file), by))
    if (file := source / "early_exit.json").is_file():
        (dest / file.name).write_text(by.text_of(file.read_text()))
    return by


def _stops(module: Any) -> set[int]:
    stops = module.generation_config.eos_token_id
    return set(stops) if isinstance(stops, list) else {stops}


def _read(path: Path) -> tokens.Files:
    found: tokens.Files = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _write(path: Path, content: tokens.Files) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
