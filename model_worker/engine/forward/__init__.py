"""One forward of the model: weights, attention over pages, sampling, graphs. All of torch is here."""
