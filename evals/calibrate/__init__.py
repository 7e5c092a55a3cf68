"""`rstitch calibrate`: a policy's parameter from questions and a goal, with an interval that is checked."""
