"""A fleet, event by event: workers that step, routers that place by their own code, deaths and drains."""
