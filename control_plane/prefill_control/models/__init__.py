"""Models and prices: what is served, to whom, at what price from when on."""
