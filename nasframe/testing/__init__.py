"""What holds of every part that keeps its promises: laws to check a part by, and what to check them on.

A morphism of your own is held to its laws by the backbones and tasks that you name in a strategy of strategies:

    @given(strategies.trained(st.builds(nasframe.Strategy, backbone=..., task=..., ...)))
    def test_growth(parent):
        child = assertions.assert_transaction(parent, lambda network: MyGrowth().change(network, request, {}, nasframe.Seed(("test",))))
        assertions.assert_exact(parent, child)
        assertions.assert_trainable(parent, child)
        assertions.assert_moments_follow(parent, child)

`fakes` has the parts that such a search needs and a law does not care about. `laws`, `trained` and `fakes` need nothing beyond
nasframe; `strategies` draws with hypothesis (pip install "nasframe[testing]").
"""
