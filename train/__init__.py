"""The trainer: `python -m train --config=configs/NAME.py`."""
