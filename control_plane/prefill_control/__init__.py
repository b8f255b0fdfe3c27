"""The control plane: who may prefill, where, how much, at what price."""
