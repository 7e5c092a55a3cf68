"""The server kit that every rstitch service stands on. It knows gRPC and telemetry; it knows no model and no policy."""
