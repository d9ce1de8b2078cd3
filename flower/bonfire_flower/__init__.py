"""Bonfire on Flower: every SuperNode is a site with one client or many, the ServerApp is Bonfire's server."""
