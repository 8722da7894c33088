"""One config a paper: `get_config(arg)` returns a locked ConfigDict."""
