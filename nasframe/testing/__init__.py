"""What holds of every part that keeps its promises: laws to check a part by, and what to check them on.

`laws` needs nothing beyond nasframe; `strategies` draws with hypothesis (pip install "nasframe[testing]").
"""
