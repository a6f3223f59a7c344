"""Upper bounds of the histograms, in seconds; each list holds the limits that people put into alerts."""

from __future__ import annotations

from typing import Final

# Whole requests: from an embedding of one sentence to a batch generation of two hours.
REQUEST_DURATION: Final = (
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0),
    *(480.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0, 5400.0, 7200.0),
)

# From the request to its first frame: a short prompt on an idle worker, up to a long one behind a full queue.
FIRST_FRAME: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.0, 5.0, 7.5),
    *(10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 160.0, 640.0, 2560.0),
)

# Between two reads of one stream, and for one token of it: token times of one model, and the stalls above them.
INTER_FRAME: Final = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 10.0),
)

# Waiting for a worker: from a slot that is free a moment later, over the usual limit of half a minute, to a minute.
QUEUE_WAIT: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)

# What the gateway adds of its own: microseconds when all is well, above 0.1 a queue or a slow connect.
OVERHEAD: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
