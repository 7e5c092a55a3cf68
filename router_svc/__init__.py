"""The router: decides who writes which token, and keeps what was written. It computes no token itself."""
