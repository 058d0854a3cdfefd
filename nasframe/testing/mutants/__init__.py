"""The exam of the kit itself: shipped parts with one fault each, a module for each kind of part, and the laws that must see it."""
