"""Who looks on: trace, metrics, load, and the guard that never lets routing be slower. They change no token."""
