"""The command line `rstitch`. It knows the client and the local stack, no service."""
