"""What other programs install to talk to rstitch: contract, client and command line. No torch, no redis."""

__version__ = "0.1.0"
