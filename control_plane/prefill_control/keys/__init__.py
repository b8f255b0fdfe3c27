"""API keys: who may call, with which scopes, from where, until when."""
