"""R-Stitch+ (arXiv 2507.17307): the head that decides where the LLM is worth its time, trained by reinforcement."""
