"""The page on the gateway's port: static files, served as they are. It knows no router; the page asks the JSON API."""
