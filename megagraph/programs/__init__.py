"""Programs of agents: what confines them, how they are run to their end or talked with, what they changed."""
