"""Top-level teams in processes of their own, so that an organisation uses more than one core.

The first process has the boss, the limits, the gates to the models and the files' writer. Each worker runs the agents
that the boss has recruited, as they are given to it, with everybody below them: their graphs, model calls, tools and
rows. What concerns others passes through the first process, in order.
"""
