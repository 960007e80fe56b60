"""The routes, a file for each kind; each has `routes(service)`, which returns them."""
