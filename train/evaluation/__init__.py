"""Parts of `train.evaluate`: data sets, metrics by position, tables."""
