"""A second domain for tiny pairs: telling what a small Python program prints."""
