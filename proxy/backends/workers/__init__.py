"""The one owner of the addresses of the fleet: who names a worker, and what watching it tells."""
