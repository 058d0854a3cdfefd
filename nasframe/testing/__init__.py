"""What holds of every part that keeps its promises: laws to check a part by, and what to check them on.

A morphism of your own is held to its laws by the backbones and tasks that you name in a strategy of strategies:

    @given(strategies.aged(st.builds(nasframe.Strategy, backbone=..., task=..., ...)))
    def test_growth(parent):
        child = laws.transaction(parent, lambda network: MyGrowth().change(network, request, {}, nasframe.Seed(("test",))))
        laws.exact(parent, child)
        laws.alive(parent, child)
        laws.undisturbed(parent, child)

`fakes` has the parts that such a search needs and a law does not care about. `laws`, `aged` and `fakes` need nothing beyond
nasframe; `strategies` draws with hypothesis (pip install "nasframe[testing]").
"""
