"""The search: a strategy, the one state that it moves through, and the loop that moves it."""
