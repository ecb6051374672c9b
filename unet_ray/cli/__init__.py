"""The command line: `unet-ray COMMAND`, which is also `python jobs/COMMAND.py`."""
