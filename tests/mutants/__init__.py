"""Shipped parts with one fault each, and the law that must detect it."""
