"""Something that learns: single-device code that knows neither the cluster nor the schedule."""
