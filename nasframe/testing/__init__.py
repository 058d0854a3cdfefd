"""The conformance kit: check the parts of a plugin, and write tests of them.

`nasframe check NAME` and `nasframe.testing.check.check` try all laws (`nasframe.testing.laws`) on parts. In your tests,
`strategies` draws searches and trained networks with hypothesis, `assertions` compares a network with the child of a change,
and `fakes` has small parts of each kind:

    @given(strategies.trained_networks(strategies.searches(backbone, task)), strategies.seeds())
    def test_growth(parent, seed):
        proposal = parent.proposals(MyGrowth())[0]
        child = assertions.assert_transaction(parent, lambda structure: MyGrowth().edit(structure, proposal.request, {}, seed))
        assertions.assert_exact(parent, child)
        assertions.assert_trainable(child)

It needs `pip install ".[testing]"` in the checkout of nasframe.
"""
