"""TauBench retail and airline: an agent with tools, a user, a database; the reward compares end states."""
