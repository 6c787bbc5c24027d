"""Small tasks of the literature, one config each."""
