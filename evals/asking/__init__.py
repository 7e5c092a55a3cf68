"""How systems are asked: stacks, loads, questions, one record an answer. It draws no conclusion from the answers."""
