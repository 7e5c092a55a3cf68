"""The front door: OpenAI's HTTP API, a JSON view of our own contract, and a page to look at answers.

It is a client of RouterService and keeps nothing: the router decides, keys are handed on. It knows no worker, no Redis
and no model.
"""
