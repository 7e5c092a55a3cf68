"""One file per task: where its problems are, how they are asked, how answers are checked. See docs/evaluation.md."""
