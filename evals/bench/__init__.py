"""`rstitch bench`: how fast the system is beside what a user would pick instead, paired, in one run."""
