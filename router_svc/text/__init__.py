"""Tokens and text: tokenizer, detokenizer, stop strings."""
