"""How data/build.py makes each shipped file: one module a kind of data."""
