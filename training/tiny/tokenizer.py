"""The tokenizer of a domain: a byte-level BPE trained on its problems, every digit a token of its own.

Any UTF-8 text goes in and comes back unchanged. Words keep the space before them, punctuation keeps a line break after
it; nothing merges across these borders, so lines tokenize the same alone and together. Knows nothing of models.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evals.tasks.tiny.domain import Domain
from evals.tasks.tiny.splits import P
from training.tiny import chains

BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = (PAD, BOS, END, "<|system|>", "<|user|>", "<|assistant|>")
THINK = ("<think>", "</think>")  # ordinary tokens: they stay visible when special ones are skipped
# After each line of a chain a trial answer can follow, in the words of its closing.
EARLY_EXIT = {"boundaries": [".\n"], "prompt": "</think>\n", "end": "}", "thinking_end": "</think>"}
MAX_ENTRIES = 1_024
MAX_LENGTH = 2_048
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Think step by step and put the final answer in \\boxed{}.",
    "Solve the problem.",
)
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message.role not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role: ' ~ message.role) -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message.role ~ '|>' ~ message.content ~ eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
# A digit; a word with the space before it; punctuation with a line break, or a space before a digit, after it; blanks.
_PIECES = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+(?:\n| (?=\p{N}))?|\s+"


def train_tokenizer(domain: Domain[P], num_problems: int = 5_000) -> PreTrainedTokenizerFast:
    """Train on questions and chains of the training split; the same bytes come out every time."""
    rng = random.Random(7)
    texts = list(SYSTEM_PROMPTS) * 100
    for problem in domain.generator.problems("train", num_problems):
        texts += [problem.question, chains.text(chains.chain(domain, problem, "verbose", rng))]
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_ENTRIES - len(THINK),
        min_frequency=20,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    for tag in THINK:
        texts = [text.replace(tag, "") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in THINK])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[t for t in SPECIAL if t not in (PAD, BOS, END)],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer so that `AutoTokenizer` finds it, in transformers 4 as in 5; and how early exit asks."""
    tokenizer.save_pretrained(str(folder))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (folder / "early_exit.json").write_text(json.dumps(EARLY_EXIT, indent=2) + "\n")
