"""One module per command of `prefill-cloud`; each gives itself to the application."""
