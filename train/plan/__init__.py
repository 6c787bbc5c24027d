"""What a run needs of a TPU slice, before there is one."""
