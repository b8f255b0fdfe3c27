"""What the speed figures are made of: our engine, transformers and the machine's own limits."""
