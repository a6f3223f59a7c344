"""Workers that the settings declare, of backends whose rules say how a worker is looked at."""
