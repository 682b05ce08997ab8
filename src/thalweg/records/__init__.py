"""What lies on disk: the records of runs, landscapes and experiments as frozen dataclasses."""
