"""Stores inside other libraries, a module each; none is imported before it is asked for."""
