"""The decode loop: Algorithm 1 of R-Stitch, and speculative decoding."""
