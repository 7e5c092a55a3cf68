"""Who writes the next token: values without memory, which know neither worker nor wire."""
