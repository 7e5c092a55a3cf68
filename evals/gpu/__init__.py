"""`make gpu`: all that is worth knowing about one GPU, in one command and less than eight minutes."""
