"""How Redis is reached: addresses, logins, connections. It knows no key of ours and no service."""
