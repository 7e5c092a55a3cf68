"""`python -m router_svc --slm HOST:PORT --llm HOST:PORT --redis URL`: serves the router."""

from router_svc.main import main

if __name__ == "__main__":
    main()
