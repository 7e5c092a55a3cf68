"""Stacks and load: how questions reach a system."""
