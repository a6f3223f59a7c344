"""A gateway of several processes: a supervisor, one that has the fleet, and those that serve clients."""
