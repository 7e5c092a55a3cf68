"""Shared parameters beside two models: what they take of memory and of time, and what they answer."""
