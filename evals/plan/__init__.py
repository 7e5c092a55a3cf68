"""How many workers, routers and gateways a load takes, from what steps cost; and a fleet of a thousand, simulated."""
