"""Changes of any torch.nn.Module: a child is a copy that is edited, filled from its parent by a map, and measured."""
