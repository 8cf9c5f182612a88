"""How long a run takes on this machine, measured before it starts."""
